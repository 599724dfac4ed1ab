"""Continue a text with the language model beside this file; README.md says what to install.

    python run.py "Once upon a time"    continue the text, token by token as they come
    python run.py --chat                one message after the other (needs the model's chat template, and jinja2)
    python run.py --golden              compare log-probabilities of the golden prompt with those when it was packed
    python run.py --bench               how fast it reads and writes on this machine

It checks what the model says, not the files; `squeeze verify` checks both. One file, since it travels alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from squeeze.targets.scripts.shared import HERE, Json, exit_code, golden_line, peak_rss_bytes, plain
from squeeze.targets.scripts.tokens import TextPackage, log_softmax


def main(runtime: Callable[[Path, int], Any], arguments: list[str] | None = None) -> int:
    """Read arguments, run, print; 0 done, 1 cannot, 2 wrong arguments, 4 the golden prompt differs."""
    options = parsed(arguments)
    act = golden if options.golden else bench if options.bench else chat if options.chat else complete
    return exit_code(lambda: act(TextPackage(options.folder, runtime, options.threads), options), options.folder)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", nargs="?", help="the text to continue")
    parser.add_argument("--chat", action="store_true", help="ask for messages and answer them")
    parser.add_argument("--golden", action="store_true", help="run the golden prompt and compare")
    parser.add_argument("--bench", action="store_true", help="measure tokens per second")
    parser.add_argument("--tokens", type=int, default=200, help="most tokens to write (200)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token each time (0)")
    parser.add_argument("--top-k", type=int, default=40, help="choose among so many, above temperature 0 (40)")
    parser.add_argument("--top-p", type=float, default=0.95, help="and among this share of probability (0.95)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice (0)")
    parser.add_argument("--prompt-tokens", type=int, default=128, help="with --bench: tokens to read (128)")
    parser.add_argument("--rounds", type=int, default=5, help="with --bench: times to measure (5)")
    parser.add_argument("--threads", type=int, default=2, help="processor threads (2)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--folder", type=Path, default=HERE, help="the unpacked package (where this file lies)")
    options = parser.parse_args(arguments)
    if sum([options.prompt is not None, options.chat, options.golden, options.bench]) != 1:
        parser.error("give a text, --chat, --golden or --bench")
    if options.tokens < 1 or options.temperature < 0 or options.prompt_tokens < 1 or options.threads < 1:
        parser.error("--tokens, --prompt-tokens and --threads start at 1, --temperature at 0")
    return options


def complete(package: TextPackage, options: argparse.Namespace) -> int:
    """Continue one text."""
    tokens = package.encode(options.prompt)
    began = time.perf_counter()
    pieces = list(print_pieces(package.written(tokens, options), options.json))
    seconds = time.perf_counter() - began
    if options.json:
        text = "".join(text for text, _ in pieces)
        facts = {"prompt_tokens": len(tokens), "tokens": len(pieces), "seconds": seconds}
        print(json.dumps({"text": text, **facts, "peak_rss_bytes": peak_rss_bytes()}))
    else:
        print()
    return 0


def chat(package: TextPackage, options: argparse.Namespace) -> int:
    """Messages from the terminal, answers to it; an empty line or the end of input ends it."""
    messages: list[Json] = []
    while message := ask():
        messages.append({"role": "user", "content": message})
        pieces = list(print_pieces(package.written(package.encode_chat(messages), options), False))
        print()
        messages.append({"role": "assistant", "content": "".join(text for text, _ in pieces)})
    return 0


def ask() -> str:
    """One line from the user."""
    try:
        return input("> ").strip()
    except EOFError:
        return ""


def print_pieces(pieces: Iterator[tuple[str, int]], silent: bool) -> Iterator[tuple[str, int]]:
    """The same pieces, printed as they pass."""
    for text, token in pieces:
        if not silent:
            print("\n".join(map(plain, text.split("\n"))), end="", flush=True)
        yield text, token


def golden(package: TextPackage, options: argparse.Namespace) -> int:
    """Compare what the model says of the golden prompt with what it said when it was packed."""
    import numpy as np

    prompt = package.golden("input")["input_ids"][0].tolist()
    every = log_softmax(package.runtime.feed(prompt, every=True))
    outputs = {
        "prompt_log_probabilities": every[np.arange(len(prompt) - 1), prompt[1:]],
        "next_log_probabilities": every[-1],
    }
    result = package.compared(outputs)
    facts = {**result, "load_ms": package.load_ms, "peak_rss_bytes": peak_rss_bytes()}
    print(json.dumps(facts) if options.json else golden_line(result))
    return 0 if result["agrees"] else 4


def bench(package: TextPackage, options: argparse.Namespace) -> int:
    """Tokens per second, reading and writing, several times over."""
    import numpy as np

    prompt = np.random.default_rng(0).integers(0, package.tokens_known, options.prompt_tokens).tolist()
    rounds = [timed_round(package, prompt, options.tokens) for _ in range(options.rounds + 1)][1:]  # the first warms up
    result: Json = {"load_ms": package.load_ms, "prompt_tokens": len(prompt), "new_tokens": options.tokens}
    for name in rounds[0]:
        low, median, high = np.percentile([each[name] for each in rounds], (10, 50, 90)).tolist()
        result[name] = {"median": median, "p10": low, "p90": high}
    result["peak_rss_bytes"] = peak_rss_bytes()
    if options.json:
        print(json.dumps(result))
        return 0
    for name in rounds[0]:
        print(f"{name}: {result[name]['median']:,.1f} [{result[name]['p10']:,.1f}, {result[name]['p90']:,.1f}]")
    print(f"load_ms: {package.load_ms:,.1f}")
    return 0


def timed_round(package: TextPackage, prompt: list[int], most: int) -> dict[str, float]:
    """Read the prompt, write ``most`` tokens, whatever they are."""
    runtime = package.runtime
    runtime.reset()
    began = time.perf_counter()
    token = int(runtime.feed(prompt)[-1].argmax())
    first = time.perf_counter()
    for _ in range(most):
        token = int(runtime.feed([token])[-1].argmax())
    end = time.perf_counter()
    return {
        "prefill_tokens_per_s": len(prompt) / (first - began),
        "decode_tokens_per_s": most / (end - first),
        "first_token_ms": 1000 * (first - began),
    }
