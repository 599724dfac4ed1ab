"""What a language model says of the endings of texts: how likely each is, and whether it is what it would write.

Texts of about one length go through the model together, filled up behind their end: a causal model does not look
ahead, so nothing before is changed by it. Several lengths go through each block before the next is read, and the head
sees the endings alone. Memory is bounded by :data:`ACTIVATION_BYTES`, whatever the number of texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from squeeze.data.choices import ChoiceDataset, CutEnding
from squeeze.errors import ModelError
from squeeze.evaluate.arrays import SavedArrays
from squeeze.evaluate.tokens import most_logits
from squeeze.models.language.decoder import Decoder, ScoredTokens
from squeeze.models.language.memory import small_heap
from squeeze.progress import Progress

WALK_TOKENS = 32_768  # tokens scored together
ACTIVATION_BYTES = 2**26  # activations of all tokens that pass a block before the next block is read
CHUNK_TOKENS = 1024  # tokens in a block at once
FILL = 0  # padding token; positions after the end of a text are never read


@dataclass(frozen=True)
class EndingScores(SavedArrays):
    """Per ending ``[m]``, in the data's own order.

    Args:
        log_probability: Of all its tokens together, in nats.
        greedy: Whether each of its tokens is the likeliest.
        size_bytes: Of its text.
        counts, answers: Per question: how many endings, and which is right.
    """

    log_probability: np.ndarray
    greedy: np.ndarray
    size_bytes: np.ndarray
    counts: np.ndarray
    answers: np.ndarray

    def __len__(self) -> int:
        return len(self.counts)

    def chosen(self, per_byte: bool) -> np.ndarray:
        """``[questions]``: the likeliest ending of each; the first one where two are alike."""
        scores = self.log_probability / self.size_bytes if per_byte else self.log_probability
        parts = np.split(scores, np.cumsum(self.counts)[:-1])
        return np.array([part.argmax() for part in parts])


def score_endings(model: Decoder, data: ChoiceDataset, progress: Progress, what: str) -> EndingScores:
    """Score every ending.

    Raises:
        ModelError: a logit is not finite.
    """
    endings = data.sequences
    log_probability, greedy = np.zeros(len(endings)), np.zeros(len(endings), dtype=bool)
    most = _most_tokens(model)
    rounds = list(_rounds(_walks([read_tokens(ending) for ending in endings], most), most))
    with small_heap(model.reused_bytes):
        for walks in progress.track(rounds, what, len(rounds)):
            texts = [_Texts.of([endings[index] for index in together], width) for together, width in walks]
            for (together, _), scores in zip(walks, _scored(model, texts, progress, what), strict=True):
                log_probability[together], greedy[together] = scores
    sizes = np.array([ending.size_bytes for ending in endings])
    return EndingScores(log_probability, greedy, sizes, data.counts, data.answers)


def walked(endings: Sequence[CutEnding]) -> Iterator[tuple[int, int]]:
    """Texts that go through a model together: how many, and how long they are made."""
    lengths = [read_tokens(ending) for ending in endings]
    for rows, width in _walks(lengths, WALK_TOKENS):
        yield len(rows), min(width, max(lengths[row] for row in rows))


def _most_tokens(model: Decoder) -> int:
    """Tokens whose activations lie in memory together."""
    token_bytes = model.hidden_bytes(1)
    return WALK_TOKENS if not token_bytes else max(CHUNK_TOKENS, min(WALK_TOKENS, ACTIVATION_BYTES // token_bytes))


def _rounds(walks: Iterable[tuple[np.ndarray, int]], most: int) -> Iterator[list[tuple[np.ndarray, int]]]:
    """Walks that go through each block one after the other, so that it is read once for all of them."""
    together: list[tuple[np.ndarray, int]] = []
    for walk in walks:
        tokens = sum(len(rows) * width for rows, width in [*together, walk])
        if together and tokens > most:
            yield together
            together = []
        together.append(walk)
    if together:
        yield together


def _walks(lengths: list[int], most: int) -> Iterator[tuple[np.ndarray, int]]:
    """Numbers of texts that go through the model together, and how long they are made."""
    order = np.argsort(np.array(lengths), kind="stable")
    widths = np.array([_width(lengths[index]) for index in order])
    for width in np.unique(widths):
        same = order[widths == width]
        size = max(1, most // int(width))
        yield from ((same[start : start + size], int(width)) for start in range(0, len(same), size))


def _width(length: int) -> int:
    """The next of 8, 12, 16, 24, 32, 48, 64, ...: at most half as long again, so few widths and little filling."""
    width = 8
    while width < length:
        width = width * 3 // 2 if width & (width - 1) == 0 else width * 4 // 3
    return width


def read_tokens(ending: CutEnding) -> int:
    """How many tokens the model reads; the last one is only predicted."""
    return len(ending.tokens) - 1


@dataclass(frozen=True)
class _Texts(ScoredTokens):
    """Texts of about one length; ``targets`` are the tokens that follow each, the same shape."""

    targets: Tensor

    @classmethod
    def of(cls, endings: list[CutEnding], width: int) -> _Texts:
        """Filled up behind their end to at most ``width``."""
        width = min(width, max(read_tokens(ending) for ending in endings))
        tokens = torch.full((len(endings), width), FILL, dtype=torch.int64)
        targets, is_scored = torch.full_like(tokens, FILL), torch.zeros_like(tokens, dtype=torch.bool)
        for row, ending in enumerate(endings):
            read = read_tokens(ending)
            tokens[row, :read] = torch.from_numpy(ending.tokens[:-1])
            targets[row, :read] = torch.from_numpy(ending.tokens[1:])
            is_scored[row, ending.start - 1 : read] = True
        return cls(tokens, is_scored, targets)


def _scored(
    model: Decoder, texts: list[_Texts], progress: Progress, what: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each of them, per text: the log-probability of its ending, and whether each is the likeliest."""
    rows = [one.is_scored.nonzero()[:, 0] for one in texts]
    right = [one.targets[one.is_scored] for one in texts]
    log_probability = [torch.zeros(len(one.tokens), dtype=torch.float64) for one in texts]
    missed = [torch.zeros(len(one.tokens), dtype=torch.int64) for one in texts]
    most = most_logits(model.vocabulary, not model.blocks)
    for number, part, logits in model.logits_at(texts, most, CHUNK_TOKENS, progress=progress):
        targets = right[number][part]
        log_q = (logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)).double()
        if not torch.isfinite(log_q).all():
            raise ModelError(f"{what}: the model gives NaN or infinity")
        log_probability[number].index_add_(0, rows[number][part], log_q)
        missed[number].index_add_(0, rows[number][part], (logits.argmax(-1) != targets).long())
        del logits  # freed before the next chunk's
    for sums, wrong in zip(log_probability, missed, strict=True):
        yield sums.numpy(), (wrong == 0).numpy()
