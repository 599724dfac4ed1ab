"""A language model as the files that a runtime loads, scored and run by that very runtime.

How the files are made is the business of passes and targets; each runtime has a file of its own in ``runtimes``.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from squeeze import registry
from squeeze.errors import ModelError
from squeeze.formats.tensor_spec import TensorSpec
from squeeze.models.artifact import Artifact
from squeeze.models.base import Batch, Layer, Model
from squeeze.models.facts import Facts
from squeeze.models.language.decoder import Decoder
from squeeze.models.language.memory import trim_heap

PROMPT, PROMPT_LOG, NEXT_LOG = "input_ids", "prompt_log_probabilities", "next_log_probabilities"


class LanguageArtifact(Decoder, Artifact):
    """A folder whose files a runtime loads, the tokenizer among them."""

    form: ClassVar[str] = "language artifact"
    package_folder: ClassVar[str] = "model/"
    file_name: ClassVar[str]  # of the one that the runtime is pointed at
    runtime: str  # registered name
    facts: Facts

    def __init__(self, folder: Path, facts: Facts, keeper: object = None) -> None:
        self.folder, self.facts, self.keeper = folder, facts, keeper
        self.threads = min(4, os.cpu_count() or 1)
        if not self.main.is_file():
            raise ModelError(f"{folder}: no {self.main.name} here, which {self.runtime} loads")

    @property
    def main(self) -> Path:
        """The file that the runtime is pointed at."""
        return self.folder / self.file_name

    @abstractmethod
    def generate(self, prompt: Sequence[int], most: int) -> Iterator[int]:
        """Continue greedily by up to ``most`` tokens, each as soon as it is known, with the runtime's own cache."""

    def in_pieces(self, tokens: Tensor, size: int) -> Tensor:
        """Logits float32 ``[rows, length, vocabulary]`` of texts that are read so many tokens at a time."""
        logits = torch.empty(*tokens.shape, self.vocabulary)
        for row, text in enumerate(tokens):
            for part, piece in self.pieces(text, size):
                logits[row, part] = piece
        return logits

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(sorted(path for path in self.folder.rglob("*") if path.is_file()))

    @classmethod
    def require_installed(cls, where: str) -> None:
        """Raise ``ModelError`` where the runtime is not installed; ``where`` names who wants it."""
        registry.load("runtimes", cls.runtime).require_installed(where)

    @abstractmethod
    def arithmetic(self) -> str: ...

    def reopened(self) -> Self:
        return type(self)(self.folder, self.facts, self.keeper)

    def close(self) -> None:
        opened = [name for name in vars(self) if isinstance(getattr(type(self), name, None), cached_property)]
        for name in opened:
            del self.__dict__[name]
        if opened:
            trim_heap(cycles=False)  # a session holds a model's weights several times

    def layers(self) -> list[Layer]:
        """A runtime's file need not list them."""
        return []

    def runner(self, batch: Batch, threads: int) -> Callable[[], object]:
        """One pass over the batch's tokens, as when a prompt is read."""
        self.threads = threads
        tokens = batch.inputs["input_ids"]
        return lambda: [logits for _, logits in self.logits(tokens, len(tokens))]

    def signature(self) -> tuple[Sequence[TensorSpec], Sequence[TensorSpec]]:
        """Of what :meth:`answer` takes and gives."""
        prompt = TensorSpec(name=PROMPT, shape=(1, "length"), dtype="int64")
        log = TensorSpec(name=PROMPT_LOG, shape=("length - 1",), dtype="float32")
        return [prompt], [log, TensorSpec(name=NEXT_LOG, shape=(self.vocabulary,), dtype="float32")]

    def feed(self, batch: Batch) -> dict[str, np.ndarray]:
        """The first text of a batch as a prompt, int64 ``[1, length]``."""
        return {PROMPT: batch.inputs[PROMPT].numpy()[:1].astype(np.int64)}

    def answer(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Log-probabilities of the prompt's tokens and of every token that may follow; on one thread: they repeat."""
        self.require_installed(self.main.name)
        self.threads = 1
        prompt_log, following = self.log_probabilities(arrays[PROMPT][0].tolist())
        return {PROMPT_LOG: prompt_log, NEXT_LOG: following}

    def log_probabilities(self, prompt: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Of each prompt token but the first ``[n - 1]``, and of every token that may follow ``[vocabulary]``."""
        tokens = torch.tensor([list(prompt)])
        (_, logits), *_ = self.logits(tokens)
        every = torch.log_softmax(logits[0].float(), dim=-1)
        chosen = every[:-1].gather(-1, tokens[0, 1:, None])[:, 0]
        return chosen.numpy(), every[-1].numpy()


def in_runtime(model: Model) -> LanguageArtifact:
    """A model that goes on with a text in its runtime, as what it is."""
    assert isinstance(model, LanguageArtifact), "only a runtime's files are asked to"
    return model
