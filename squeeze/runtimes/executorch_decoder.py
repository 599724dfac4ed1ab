"""A decoder as ExecuTorch runs it: ``model.pte`` with its key-value cache inside, a tokenizer beside it.

The cache lies in the program: each text starts at position 0, and attention never reads beyond the last token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from squeeze.errors import ModelError, all_lines
from squeeze.models.language.artifact import LanguageArtifact
from squeeze.runtimes.executorch import ExecuTorchText

FILE_NAME = "model.pte"
T = TypeVar("T")


class ExecuTorchDecoder(LanguageArtifact):
    """``model.pte`` and a tokenizer.

    Raises:
        ModelError: no such file, or a program that is no decoder.
    """

    runtime = "executorch"
    file_name = FILE_NAME

    def arithmetic(self) -> str:
        rounds = bool(self.text.record.get("integers"))
        what = ", activations rounded to int8 for each token before integer weights" if rounds else " activations"
        return f"ExecuTorch with XNNPACK: float32{what}, float32 keys, values and logits"

    @property
    def vocabulary(self) -> int:
        return self.text.vocabulary

    @property
    def context(self) -> int:
        """How many tokens a text may have."""
        return self.text.context

    def logits(self, tokens: Tensor, chunk: int = 8, spill: Path | None = None) -> Iterator[tuple[slice, Tensor]]:
        self.require_known(tokens)
        self._require_within(tokens.shape[1])
        for start in range(0, len(tokens), chunk):
            part = slice(start, min(start + chunk, len(tokens)))
            yield part, torch.from_numpy(np.stack([self._row(row) for row in tokens[part].tolist()]))

    def generate(self, prompt: Sequence[int], most: int) -> Iterator[int]:
        self._require_within(len(prompt) + most - 1)
        text, new = self.text, list(prompt)
        text.reset()
        for _ in range(most):
            feed, length = new, text.length
            token = int(self._running(lambda feed=feed: text.feed(feed))[-1].argmax())  # type: ignore[misc]
            yield token
            if text.length != length + len(feed):
                raise ModelError(f"{self.main}: another text was read before this one was finished")
            new = [token]

    def _row(self, tokens: list[int]) -> np.ndarray[Any, Any]:
        """Logits ``[length, vocabulary]`` of one text."""
        self.text.reset()
        logits: np.ndarray[Any, Any] = self._running(lambda: self.text.feed(tokens, every=True))
        return logits

    @cached_property
    def _texts(self) -> dict[int, ExecuTorchText]:
        """By number of threads."""
        return {}

    @property
    def text(self) -> ExecuTorchText:
        self.require_installed(self.main.name)
        if self.threads not in self._texts:
            self._texts[self.threads] = self._running(lambda: ExecuTorchText(self.main, self.threads))
        return self._texts[self.threads]

    def _require_within(self, count: int) -> None:
        if count > self.context:
            raise ModelError(f"{self.main}: {count} tokens are more than the {self.context} that a text may have")

    def _running(self, call: Callable[[], T]) -> T:
        """What the runtime gives; what it raises as one line."""
        try:
            return call()
        except KeyError as error:
            raise ModelError(f"{self.main}: no decoder: the program does not say its {error}") from error
        except (RuntimeError, ValueError, IndexError) as error:
            raise ModelError(f"{self.main}: ExecuTorch stopped: {all_lines(error)}") from error
