"""What a language model says of the endings of texts: how likely each is, and whether it is what it would write.

Texts of about one length go through the model together, filled up behind their end: a causal model does not look
ahead, so nothing before is changed by it. Memory is bounded by :data:`WALK_TOKENS`, whatever the number of texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from squeeze.data.choices import ChoiceDataset, CutEnding
from squeeze.errors import ModelError
from squeeze.evaluate.arrays import SavedArrays
from squeeze.models.language.decoder import Decoder
from squeeze.progress import Progress

WALK_TOKENS = 32_768  # whose activations lie in memory together
LOGITS = 2**26  # at once, 256 MB: a chunk is shorter where the vocabulary is large
MOST_CHUNK_TOKENS = 4096
FILL = 0  # a token; what stands behind the end of a text is never looked at


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
    walks = list(_walks([read_tokens(ending) for ending in endings]))
    for together, width in progress.track(walks, what, len(walks)):
        chosen = [endings[index] for index in together]
        found = _scored(model, chosen, width, what)
        log_probability[together], greedy[together] = found
    sizes = np.array([ending.size_bytes for ending in endings])
    return EndingScores(log_probability, greedy, sizes, data.counts, data.answers)


def _walks(lengths: list[int]) -> Iterator[tuple[np.ndarray, int]]:
    """Numbers of texts that go through the model together, and how long they are made."""
    order = np.argsort(np.array(lengths), kind="stable")
    widths = np.array([_width(lengths[index]) for index in order])
    for width in np.unique(widths):
        same = order[widths == width]
        size = max(1, WALK_TOKENS // int(width))
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


def _scored(model: Decoder, endings: list[CutEnding], width: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    width = min(width, max(read_tokens(ending) for ending in endings))
    tokens = torch.full((len(endings), width), FILL, dtype=torch.int64)
    targets, is_scored = torch.full_like(tokens, FILL), torch.zeros_like(tokens, dtype=torch.bool)
    for row, ending in enumerate(endings):
        read = read_tokens(ending)
        tokens[row, :read] = torch.from_numpy(ending.tokens[:-1])
        targets[row, :read] = torch.from_numpy(ending.tokens[1:])
        is_scored[row, ending.start - 1 : read] = True
    room = min(MOST_CHUNK_TOKENS, LOGITS // model.vocabulary)
    parts = [
        _chunk(logits, targets[part], is_scored[part], what)
        for part, logits in model.logits(tokens, max(1, room // width))
    ]
    log_probability, greedy = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    return log_probability, greedy


def _chunk(logits: Tensor, targets: Tensor, is_scored: Tensor, what: str) -> tuple[Tensor, Tensor]:
    """Per text: the log-probability of its wanted tokens, and whether each is the likeliest."""
    rows, chosen, right = is_scored.nonzero()[:, 0], logits[is_scored], targets[is_scored]
    log_q = (chosen.gather(-1, right[:, None])[:, 0] - chosen.logsumexp(-1)).double()
    if not torch.isfinite(log_q).all():
        raise ModelError(f"{what}: the model gives NaN or infinity")
    log_probability = torch.zeros(len(is_scored), dtype=torch.float64).index_add(0, rows, log_q)
    missed = torch.zeros(len(is_scored), dtype=torch.int64).index_add(0, rows, (chosen.argmax(-1) != right).long())
    return log_probability, missed == 0
