"""Texts as tokens, and tokens as they come out of a language model that remembers what it has read."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from squeeze.targets.scripts.shared import Fault, Json, Package, one_line


class TextPackage(Package):
    """A package with a tokenizer; its runtime has ``feed`` and ``reset``."""

    def __init__(self, folder: Path, runtime: Callable[[Path, int], Any], threads: int) -> None:
        super().__init__(folder, runtime, threads)
        self.model = self.file.parent
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
        except Exception as error:  # a chat template may raise anything
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

    def written(self, tokens: list[int], options: argparse.Namespace) -> Iterator[tuple[str, int]]:
        """Pieces of text with their tokens, until the model ends or enough are written."""
        import numpy as np

        random, tokenizer, stops = np.random.default_rng(options.seed), self.tokenizer(), self.stops()
        new: list[int] = []
        printed = ""
        scores = self.read(tokens)
        while len(new) < options.tokens:
            token = choose(scores, options, random)
            if token in stops:
                return
            new.append(token)
            text = tokenizer.decode(new)
            is_partial = text.endswith("\N{REPLACEMENT CHARACTER}") and len(new) < options.tokens  # half a character
            yield ("" if is_partial else text[len(printed) :]), token
            printed = printed if is_partial else text
            if len(new) < options.tokens:
                scores = self.read([*tokens, *new])

    def read(self, tokens: list[int]) -> Any:
        """Logits ``[vocabulary]`` behind these tokens; what was read before is not read again."""
        if self.cached != tokens[: len(self.cached)] or len(self.cached) >= len(tokens):
            self.runtime.reset()
            self.cached = []
        try:
            logits = self.runtime.feed(tokens[len(self.cached) :])
        except Exception as error:  # the runtimes' exception classes share no base
            raise Fault(f"{len(tokens)} tokens: the model refuses them ({one_line(error)})") from error
        self.cached = list(tokens)
        return logits[-1]

    def stops(self) -> set[int]:
        """Tokens that end a text."""
        for name in ("generation_config.json", "config.json"):
            token = read_json(self.model / name).get("eos_token_id")
            if token is not None:
                return set(token) if isinstance(token, list) else {token}
        return set()


def choose(logits: Any, options: argparse.Namespace, random: Any) -> int:
    """The likeliest token, or one drawn from the likely ones."""
    import numpy as np

    if options.temperature == 0:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")[: max(1, options.top_k)]
    shares = np.exp(log_softmax(logits[order] / options.temperature))
    count = max(1, int(np.searchsorted(np.cumsum(shares), options.top_p)) + 1)
    return int(random.choice(order[:count], p=shares[:count] / shares[:count].sum()))


def log_softmax(logits: Any) -> Any:
    """Along the last axis, in float64."""
    import numpy as np

    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def read_json(path: Path) -> Json:
    """A JSON file's mapping; an empty one where there is no such file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise Fault(f"{path}: cannot be read ({error}); unpack the whole package") from error
    return values if isinstance(values, dict) else {}
