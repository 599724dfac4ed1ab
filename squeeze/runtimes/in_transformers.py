"""What runs in transformers, whichever file its weights come from."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from squeeze.algorithms.threads import threads
from squeeze.models.language.artifact import LanguageArtifact
from squeeze.progress import no_foreign_bars


class InTransformers(LanguageArtifact):
    """Files that transformers loads as a module."""

    @property
    @abstractmethod
    def module(self) -> Any:
        """The model in memory, loaded once."""

    def logits(self, tokens: Tensor, chunk: int = 8, spill: Path | None = None) -> Iterator[tuple[slice, Tensor]]:
        self.require_known(tokens)
        for start in range(0, len(tokens), chunk):
            part = slice(start, min(start + chunk, len(tokens)))
            with self._computing():
                logits = self.module(input_ids=tokens[part], use_cache=False).logits
            yield part, logits.float()

    def generate(self, prompt: Sequence[int], most: int) -> Iterator[int]:
        tokens, past = torch.tensor([list(prompt)]), None
        for _ in range(most):
            with self._computing():
                output = self.module(input_ids=tokens, cache=past, use_cache=True)
            tokens, past = output.logits[:, -1:].argmax(-1), output.cache
            yield int(tokens)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Some packages unpack weights at the first call, with bars and compilers of their own."""
        with threads(self.threads), torch.no_grad(), torch.compiler.set_stance("force_eager"), no_foreign_bars():
            yield


class TransformersScript:
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
        options = {
            "gguf_file": self.file.name,
            "dtype": torch.float32,
            "local_files_only": True,
            "trust_remote_code": False,
        }
        return AutoModelForCausalLM.from_pretrained(self.file.parent, **options).eval(), torch

    def reset(self) -> None:
        self.past: Any = None

    def feed(self, tokens: list[int], every: bool = False) -> Any:
        with self.torch.no_grad():
            ids = self.torch.tensor([tokens])
            output = self.model(input_ids=ids, use_cache=True, **{self.cache: self.past})
        self.past = output[self.cache]
        logits = output.logits[0].float().numpy()
        return logits if every else logits[-1:]
