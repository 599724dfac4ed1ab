"""Continue a text with the language model beside this file; needs the runtime named in manifest.json and tokenizers.

    python run.py "Once upon a time"    continue the text, token by token as they come
    python run.py --chat                one message after the other (needs the model's chat template, and jinja2)
    python run.py --golden              compare log-probabilities of the golden prompt with those when it was packed
    python run.py --bench               how fast it reads and writes on this machine

It checks what the model says, not the files; `squeeze verify` checks both. One file, since it travels alone.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime would look up a host when it is imported
HERE = Path(__file__).resolve().parent
KEEP = "num_logits_to_keep"  # an input that decoders exported by Squeeze may be given
ROOM = 4096  # tokens of a text in llama.cpp, which takes memory for all of them at once
Json = dict[str, Any]


class Fault(Exception):
    """The user's fault, shown as one line."""


def main(arguments: list[str] | None = None) -> int:
    """Read arguments, run, print; 0 done, 1 cannot, 2 wrong arguments, 4 the golden prompt differs."""
    chosen = parsed(arguments)
    try:
        package = Package(chosen.folder, chosen.threads)
        if chosen.golden:
            return golden(package, chosen.json)
        if chosen.bench:
            return bench(package, chosen)
        if chosen.chat:
            return chat(package, chosen)
        return complete(package, chosen)
    except Fault as fault:
        print(f"run.py: {plain(str(fault))}", file=sys.stderr)
        return 1
    except Exception as error:  # what the runtimes, numpy and zipfile make of damaged files shares no base
        reason = plain(f"{type(error).__name__}: {error}")
        print(f"run.py: {chosen.folder}: not as a package should be ({reason[:200]})", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130


def plain(text: str) -> str:
    """Text for a terminal, on one line: what a package says may hold its codes."""
    return "".join(letter if letter.isprintable() else " " if letter.isspace() else "?" for letter in text)


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
    chosen = parser.parse_args(arguments)
    if sum([chosen.prompt is not None, chosen.chat, chosen.golden, chosen.bench]) != 1:
        parser.error("give a text, --chat, --golden or --bench")
    if chosen.tokens < 1 or chosen.temperature < 0 or chosen.prompt_tokens < 1 or chosen.threads < 1:
        parser.error("--tokens, --prompt-tokens and --threads start at 1, --temperature at 0")
    return chosen


def complete(package: Package, chosen: argparse.Namespace) -> int:
    """Continue one text."""
    tokens = package.encode(chosen.prompt)
    began = time.perf_counter()
    pieces = list(shown(package.written(tokens, chosen), chosen.json))
    seconds = time.perf_counter() - began
    if chosen.json:
        text = "".join(text for text, _ in pieces)
        told = {"prompt_tokens": len(tokens), "tokens": len(pieces), "seconds": seconds}
        print(json.dumps({"text": text, **told, "peak_rss_bytes": peak_rss_bytes()}))
    else:
        print()
    return 0


def chat(package: Package, chosen: argparse.Namespace) -> int:
    """Messages from the terminal, answers to it; an empty line or the end of input ends it."""
    messages: list[Json] = []
    while message := ask():
        messages.append({"role": "user", "content": message})
        pieces = list(shown(package.written(package.encode_chat(messages), chosen), False))
        print()
        messages.append({"role": "assistant", "content": "".join(text for text, _ in pieces)})
    return 0


def ask() -> str:
    """One line from the user."""
    try:
        return input("> ").strip()
    except EOFError:
        return ""


def shown(pieces: Iterator[tuple[str, int]], silent: bool) -> Iterator[tuple[str, int]]:
    """The same pieces, printed as they pass."""
    for text, token in pieces:
        if not silent:
            print("\n".join(map(plain, text.split("\n"))), end="", flush=True)
        yield text, token


def golden(package: Package, as_json: bool) -> int:
    """Compare what the model says of the golden prompt with what it said when it was packed."""
    import numpy as np

    arrays = np.load(package.folder / "golden.npz", allow_pickle=False)
    prompt = arrays["input.input_ids"][0].tolist()
    every = log_softmax(package.runtime.feed(prompt, every=True))
    found = {
        "prompt_log_probabilities": every[np.arange(len(prompt) - 1), prompt[1:]],
        "next_log_probabilities": every[-1],
    }
    difference = 0.0
    for name, values in found.items():
        expected = arrays[f"output.{name}"].astype(np.float64)
        gap = np.abs(values - expected).max() / max(np.abs(expected).max(), 1e-12)
        difference = max(difference, float(gap) if np.isfinite(gap) else float("inf"))
    tolerance = package.manifest["tolerance"]
    agrees = difference <= tolerance
    result = {"agrees": agrees, "difference": difference, "tolerance": tolerance, "load_ms": package.load_ms}
    word = "agrees" if agrees else "DIFFERS"
    line = f"golden prompt {word}: difference {difference:.3g}, tolerance {tolerance:.3g}"
    print(json.dumps(result | {"peak_rss_bytes": peak_rss_bytes()}) if as_json else line)
    return 0 if agrees else 4


def bench(package: Package, chosen: argparse.Namespace) -> int:
    """Tokens per second, reading and writing, several times over."""
    import numpy as np

    prompt = np.random.default_rng(0).integers(0, package.tokens_known, chosen.prompt_tokens).tolist()
    rounds = [timed_round(package, prompt, chosen.tokens) for _ in range(chosen.rounds + 1)][1:]  # the first warms up
    result: Json = {"load_ms": package.load_ms, "prompt_tokens": len(prompt), "new_tokens": chosen.tokens}
    for name in rounds[0]:
        low, median, high = np.percentile([each[name] for each in rounds], (10, 50, 90)).tolist()
        result[name] = {"median": median, "p10": low, "p90": high}
    result["peak_rss_bytes"] = peak_rss_bytes()
    if chosen.json:
        print(json.dumps(result))
        return 0
    for name in rounds[0]:
        print(f"{name}: {result[name]['median']:,.1f} [{result[name]['p10']:,.1f}, {result[name]['p90']:,.1f}]")
    print(f"load_ms: {package.load_ms:,.1f}")
    return 0


def timed_round(package: Package, prompt: list[int], most: int) -> dict[str, float]:
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


class Package:
    """The unpacked package: manifest, tokenizer and the runtime with the model in it."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.folder, self.model = folder, folder / "model"
        try:
            self.manifest: Json = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            name = self.manifest["runtime"]["name"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Fault(f"{folder}: no readable manifest.json ({error}); unpack the whole package") from error
        if name not in RUNTIMES:
            raise Fault(f"{folder}: runtime {name!r} is none of {', '.join(RUNTIMES)}")
        began = time.perf_counter()
        try:
            self.runtime: Runtime = RUNTIMES[name](folder / self.manifest["model"], threads)
        except ImportError as error:
            raise Fault(f"{error}; README.md says what to install") from error
        except Exception as error:  # the runtimes' exception classes share no base
            reason = " ".join(str(error).split())[:200]
            raise Fault(f"{folder}: cannot load the model ({reason}); unpack the whole package") from error
        self.load_ms = 1000 * (time.perf_counter() - began)
        self.cached: list[int] = []  # the tokens that the runtime has read

    @property
    def tokens_known(self) -> int:
        """Tokens that may stand in a prompt."""
        return int(self.manifest["outputs"][1]["shape"][0])

    def tokenizer(self) -> Any:
        """The model's own."""
        try:
            from tokenizers import Tokenizer

            return Tokenizer.from_file(str(self.model / "tokenizer.json"))
        except Exception as error:  # the library raises Exception itself
            raise Fault(
                f"{self.model}: no tokenizer ({error}); 'pip install tokenizers' reads tokenizer.json"
            ) from error

    def encode(self, text: str) -> list[int]:
        """A text as tokens, with those that begin one."""
        tokens: list[int] = self.tokenizer().encode(text).ids
        if not tokens:
            raise Fault("the text is empty; a word or more would do")
        return tokens

    def encode_chat(self, messages: list[Json]) -> list[int]:
        """A conversation as the model was taught to read one."""
        template, special = self.chat_template()
        try:
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError as error:
            raise Fault(f"{error}; 'pip install jinja2' renders the chat template") from error
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        try:
            text = environment.from_string(template).render(messages=messages, add_generation_prompt=True, **special)
        except Exception as error:  # a template may raise what it likes
            raise Fault(f"{self.model}: the chat template fails ({error})") from error
        tokens: list[int] = self.tokenizer().encode(text, add_special_tokens=False).ids
        return tokens

    def chat_template(self) -> tuple[str, Json]:
        """The template, and the special tokens that it may name."""
        config = read_json(self.model / "tokenizer_config.json")
        file = self.model / "chat_template.jinja"
        template = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
        if not isinstance(template, str):
            raise Fault(f"{self.model}: the model has no chat template; give a text to continue instead")
        values = {name: config.get(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
        return template, {n: v["content"] if isinstance(v, dict) else v or "" for n, v in values.items()}

    def written(self, tokens: list[int], chosen: argparse.Namespace) -> Iterator[tuple[str, int]]:
        """Pieces of text with their tokens, until the model ends or enough are written."""
        import numpy as np

        random, tokenizer, stops = np.random.default_rng(chosen.seed), self.tokenizer(), self.stops()
        new: list[int] = []
        told = ""
        scores = self.read(tokens)
        while len(new) < chosen.tokens:
            token = choose(scores, chosen, random)
            if token in stops:
                return
            new.append(token)
            text = tokenizer.decode(new)
            held = text.endswith("\N{REPLACEMENT CHARACTER}") and len(new) < chosen.tokens  # half a character
            yield ("" if held else text[len(told) :]), token
            told = told if held else text
            if len(new) < chosen.tokens:
                scores = self.read([*tokens, *new])

    def read(self, tokens: list[int]) -> Any:
        """Logits ``[vocabulary]`` behind these tokens; what was read before is not read again."""
        if self.cached != tokens[: len(self.cached)] or len(self.cached) >= len(tokens):
            self.runtime.reset()
            self.cached = []
        try:
            logits = self.runtime.feed(tokens[len(self.cached) :])
        except Exception as error:  # the runtimes' exception classes share no base
            reason = " ".join(str(error).split())[:200]
            raise Fault(f"{len(tokens)} tokens: the model refuses them ({reason})") from error
        self.cached = list(tokens)
        return logits[-1]

    def stops(self) -> set[int]:
        """Tokens that end a text."""
        for name in ("generation_config.json", "config.json"):
            found = read_json(self.model / name).get("eos_token_id")
            if found is not None:
                return set(found) if isinstance(found, list) else {found}
        return set()


class Runtime:
    """A model that remembers what it has read."""

    def feed(self, tokens: list[int], every: bool = False) -> Any:
        """Read more tokens; logits float32 ``[tokens, vocabulary]``, or ``[1, vocabulary]`` behind the last."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget."""
        raise NotImplementedError


def open_session(model: str, threads: int) -> Any:
    """ONNX Runtime on the model."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class OnnxRuntime(Runtime):
    """``model.onnx`` with past and present keys and values, which stay in the runtime's own memory."""

    def __init__(self, file: Path, threads: int) -> None:
        import onnxruntime as ort

        self.ort = ort
        self.session = open_session(str(file), threads)
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.outputs = [value.name for value in self.session.get_outputs()]
        self.may_be_told = {value.name for value in self.session.get_overridable_initializers()}
        self.reset()

    def reset(self) -> None:
        import numpy as np

        self.length = 0
        self.past = {
            name: self.value(np.zeros(empty_shape(value.shape), element(value.type)))
            for name, value in self.inputs.items()
            if name.startswith("past")
        }

    def value(self, array: Any) -> Any:
        return self.ort.OrtValue.ortvalue_from_numpy(array)

    def feed(self, tokens: list[int], every: bool = False) -> Any:
        import numpy as np

        end = self.length + len(tokens)
        given = {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(self.length, end, dtype=np.int64)[None],
        }
        feed = {name: self.value(array) for name, array in given.items() if name in self.inputs} | self.past
        if not every and KEEP in self.may_be_told:
            feed[KEEP] = self.value(np.array([1], np.int64))  # the head is skipped for all tokens but the last
        found = dict(zip(self.outputs, self.session.run_with_ort_values(self.outputs, feed), strict=True))
        self.length = end
        self.past = {name: found[present_name(name)] for name in self.past}
        logits = found["logits"].numpy()[0].astype(np.float32)
        return logits if every else logits[-1:]


class Genai(Runtime):
    """A folder of ONNX Runtime GenAI."""

    def __init__(self, file: Path, threads: int) -> None:
        import onnxruntime_genai as og

        config = og.Config(str(file.parent))
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
        self.og, self.model = og, og.Model(config)
        self.most = int(read_json(file.parent / "genai_config.json")["search"]["max_length"])
        self.reset()

    def reset(self) -> None:
        parameters = self.og.GeneratorParams(self.model)
        parameters.set_search_options(max_length=self.most, do_sample=False)
        self.generator = self.og.Generator(self.model, parameters)

    def feed(self, tokens: list[int], every: bool = False) -> Any:
        import numpy as np

        steps = [[token] for token in tokens] if every else [tokens]
        rows = []
        for step in steps:
            self.generator.append_tokens(np.array([step], np.int32))
            rows.append(np.asarray(self.generator.get_logits(), np.float32).reshape(-1, self.width())[-1])
        return np.stack(rows)

    def width(self) -> int:
        return int(self.generator.get_logits().shape[-1])


class LlamaCpp(Runtime):
    """A ``.gguf`` file in llama.cpp."""

    def __init__(self, file: Path, threads: int) -> None:
        import llama_cpp

        self.library = llama_cpp
        many = {"n_threads": threads, "n_threads_batch": threads}
        self.llama = llama_cpp.Llama(str(file), n_ctx=ROOM, verbose=False, **many)

    def reset(self) -> None:
        self.llama.reset()

    def feed(self, tokens: list[int], every: bool = False) -> Any:
        import numpy as np

        rows = []
        for step in [[token] for token in tokens] if every else [tokens]:  # it keeps the logits of the last one
            self.llama.eval(step)
            found = self.library.llama_get_logits_ith(self.llama.ctx, -1)
            rows.append(np.ctypeslib.as_array(found, shape=(self.llama.n_vocab(),)).copy())
        return np.stack(rows)


class GgufInTransformers(Runtime):
    """A ``.gguf`` file, dequantized by transformers."""

    def __init__(self, file: Path, threads: int) -> None:
        self.file, self.threads = file, threads
        self.model, self.torch = self.load()
        arguments = inspect.signature(self.model.forward).parameters
        self.cache = "cache" if "cache" in arguments else "past_key_values"  # its name before transformers 5.24
        self.reset()

    def load(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(self.threads)
        given = {
            "gguf_file": self.file.name,
            "dtype": torch.float32,
            "local_files_only": True,
            "trust_remote_code": False,
        }
        return AutoModelForCausalLM.from_pretrained(self.file.parent, **given).eval(), torch

    def reset(self) -> None:
        self.past: Any = None

    def feed(self, tokens: list[int], every: bool = False) -> Any:
        with self.torch.no_grad():
            given = self.torch.tensor([tokens])
            found = self.model(input_ids=given, use_cache=True, **{self.cache: self.past})
        self.past = found[self.cache]
        logits = found.logits[0].float().numpy()
        return logits if every else logits[-1:]


class Transformers(GgufInTransformers):
    """A packed checkpoint folder in transformers."""

    def load(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoConfig

        torch.set_num_threads(self.threads)
        config = AutoConfig.from_pretrained(self.file.parent, local_files_only=True, trust_remote_code=False)
        if config.quantization_config.get("quant_method") == "gptq":
            config.quantization_config["backend"] = "gptq_torch"  # the reference: others for CPUs round more
            return self.opened(config, torch.float16), torch
        return self.opened(config, torch.float32), torch

    def opened(self, config: Any, dtype: Any) -> Any:
        from transformers import AutoModelForCausalLM

        given = {"config": config, "dtype": dtype, "local_files_only": True, "trust_remote_code": False}
        return AutoModelForCausalLM.from_pretrained(self.file.parent, **given).eval()


RUNTIMES: dict[str, type[Any]] = {
    "onnxruntime": OnnxRuntime,
    "onnxruntime-genai": Genai,
    "llama.cpp": LlamaCpp,
    "transformers-gguf": GgufInTransformers,
    "transformers": Transformers,
}


def choose(logits: Any, chosen: argparse.Namespace, random: Any) -> int:
    """The likeliest token, or one drawn from the likely ones."""
    import numpy as np

    if chosen.temperature == 0:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")[: max(1, chosen.top_k)]
    shares = np.exp(log_softmax(logits[order] / chosen.temperature))
    kept = max(1, int(np.searchsorted(np.cumsum(shares), chosen.top_p)) + 1)
    return int(random.choice(order[:kept], p=shares[:kept] / shares[:kept].sum()))


def log_softmax(logits: Any) -> Any:
    """Along the last axis, in float64."""
    import numpy as np

    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def present_name(past: str) -> str:
    """``present.0.key`` for ``past_key_values.0.key``."""
    return past.replace("past_key_values", "present")


def empty_shape(shape: list[Any]) -> list[int]:
    """One sequence, nothing read: the first free dimension is the batch, every other one is empty."""
    return [1 if place == 0 else size if isinstance(size, int) else 0 for place, size in enumerate(shape)]


def element(kind: str) -> str:
    """numpy's name of ``tensor(float)``."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)


def read_json(path: Path) -> Json:
    """A JSON file's mapping; an empty one where there is no such file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise Fault(f"{path}: cannot be read ({error}); unpack the whole package") from error
    return found if isinstance(found, dict) else {}


def peak_rss_bytes() -> int | None:
    """The most memory this process ever held, where the system tells (Linux)."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(kilobytes[0]) if kilobytes else None


if __name__ == "__main__":
    sys.exit(main())
