"""What every causal language model can do, whether torch walks its blocks or a runtime runs its file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from squeeze.errors import ModelError
from squeeze.models.base import Batch, InputSpec, Model
from squeeze.models.language.memory import LARGE_BYTES
from squeeze.models.tasks.generate import Generate
from squeeze.models.tokenizer import TOKENIZER, read_tokenizer
from squeeze.progress import SILENT, Progress

GOLDEN_PROMPT = "Once upon a time there was a small house at the edge of the wood, and in it lived"
GOLDEN_TOKENS = 16  # where there is no tokenizer
INPUTS = (InputSpec("input_ids", (-1,), "int64"),)


@dataclass(frozen=True)
class ScoredTokens:
    """Sequences of one length, and which of their tokens are scored by what the model says behind them.

    Args:
        tokens: int64 ``[sequences, length]``.
        is_scored: bool, the same shape.
    """

    tokens: Tensor
    is_scored: Tensor


class Decoder(Model):
    """Gives logits for token sequences; lies in a folder with its tokenizer."""

    task = Generate()
    folder: Path
    inputs = INPUTS
    reused_bytes: ClassVar[int] = LARGE_BYTES
    """From here on pages of a tensor go back to the system at once while it is scored (``small_heap``)."""

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """How many tokens there are, the width of the logits."""

    @property
    def tokens_known(self) -> int:
        """How many tokens can be embedded."""
        return self.vocabulary

    @abstractmethod
    def logits(self, tokens: Tensor, chunk: int = 8, spill: Path | None = None) -> Iterator[tuple[slice, Tensor]]:
        """Logits float32 ``[n, length, vocabulary]`` of chunks of int64 ``tokens`` ``[sequences, length]``, in order.

        Args:
            chunk: Sequences that go through the model together.
            spill: A file for what does not have to lie in memory, where the model can make use of one.
        """

    def logits_at(
        self,
        texts: Sequence[ScoredTokens],
        most: int,
        chunk: int,
        spill: Path | None = None,
        progress: Progress = SILENT,
    ) -> Iterator[tuple[int, slice, Tensor]]:
        """Logits of the scored tokens alone.

        Args:
            most: Tokens whose logits are handed over at once; about as many are worked out, where the model can choose.
            chunk: Tokens that go through the model together.
            spill: As in :meth:`logits`; of one text.
            progress: Where blocks are counted, where the model is walked block by block.

        Yields:
            The number in ``texts``; which of its scored tokens, row by row; float32 ``[tokens, vocabulary]``.
        """
        for number, one in enumerate(texts):
            done = 0
            for is_scored, logits in self._parts(one, most, chunk, spill):
                for places in torch.split(is_scored.nonzero()[:, 0], most):
                    every = len(places) == len(logits)
                    yield number, slice(done, done + len(places)), logits if every else logits[places]
                    done += len(places)
                del logits  # freed before the next chunk's

    def _parts(self, texts: ScoredTokens, most: int, chunk: int, spill: Path | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Which of some tokens in a row are scored, bool ``[tokens]``, and their logits: whole texts, or pieces."""
        length = texts.tokens.shape[1]
        if length <= most:
            for part, logits in self.logits(texts.tokens, max(1, min(most, chunk) // length), spill):
                yield texts.is_scored[part].flatten(), logits.flatten(0, 1)
                del logits
            return
        for text, is_scored in zip(texts.tokens, texts.is_scored, strict=True):
            for part, logits in self.pieces(text, most):
                yield is_scored[part], logits
                del logits

    def pieces(self, text: Tensor, size: int) -> Iterator[tuple[slice, Tensor]]:
        """Logits float32 ``[n, vocabulary]`` of one text, int64 ``[length]``, so many tokens at a time.

        Here they are worked out at once; a runtime that keeps keys and values reads on from piece to piece.
        """
        ((_, logits),) = self.logits(text[None])
        for start in range(0, len(text), size):
            part = slice(start, min(start + size, len(text)))
            yield part, logits[0, part]

    def golden_prompt(self) -> list[int]:
        """The tokens of a sentence; seeded random ones where the model has no tokenizer."""
        if (self.folder / TOKENIZER).is_file():
            tokens: list[int] = read_tokenizer(self.folder)(GOLDEN_PROMPT)["input_ids"]
            return tokens
        random: list[int] = np.random.default_rng(0).integers(0, self.tokens_known, GOLDEN_TOKENS).tolist()
        return random

    def hidden_bytes(self, tokens: int) -> int:
        """What lies between two blocks for so many tokens, in float32; 0: they are not walked block by block."""
        return 0

    def predict(self, batch: Batch) -> Tensor:
        return torch.cat([logits for _, logits in self.logits(batch.inputs["input_ids"])])

    def require_known(self, tokens: Tensor) -> None:
        """Raise ``ModelError`` for a token that cannot be embedded: it is another model's."""
        if len(tokens) and int(tokens.max()) >= self.tokens_known:
            what = f"token {int(tokens.max())} is none of the {self.tokens_known} that the model knows"
            raise ModelError(f"{self.folder}: {what}; is the tokenizer another model's?")


def decoder_of(model: Model) -> Decoder:
    """A model whose task is to generate, as what it is."""
    assert isinstance(model, Decoder), "every model that generates is one"
    return model
