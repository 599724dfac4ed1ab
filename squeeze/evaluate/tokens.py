"""What a language model says of token sequences: per token how surprised it is, and how far it moved from the original.

The original is kept on disk once, as what comes out of its last block: float32, ``4 x hidden`` bytes a token, where its
log-probabilities would take ``4 x vocabulary``. When a model is compared, the original's norm and head are applied
again, a few tokens at a time, so both sides are exact float32 logits, and memory does not grow with the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from squeeze.data.token_dataset import TokenDataset
from squeeze.errors import DataError, ModelError
from squeeze.evaluate.arrays import SavedArrays
from squeeze.models.language.decoder import Decoder, ScoredTokens
from squeeze.models.language.footprint import (
    FLOAT,
    PROCESS_BYTES,
    RUN_COPIES,
    forward_bytes,
    head_bytes,
    largest_block_bytes,
)
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.memory import small_heap
from squeeze.models.language.other_order import InOtherOrder
from squeeze.progress import Progress

CHUNK_TOKENS = 1024  # tokens that pass a block together; one sequence may have more
LOGITS = 2**22  # logits computed at once: 16 MB
LOGITS_OF_RUNTIME = 2**21  # the same by a runtime, which keeps copies of its own: 8 MB
FLOOR_SEQUENCES = 4  # sequences scored twice, to measure what rounding alone changes
LOGITS_HELD = 3  # copies of a chunk's logits: model, original, and original summed in another order
ARTIFACT_LOGITS_HELD = 5  # the same, and the copies in ONNX Runtime's arena
RUNTIME_BYTES = 290_000_000  # code of ONNX Runtime and the exporter, and what both keep; fitted on four models
ROWS = 2**20  # logits that are compared together, 4 MB
HIDDEN = "hidden.f32"  # the original's last hidden states, [sequences, length, hidden]
ACTIVATIONS = "activations.f32"  # activations of the compared model while it is scored


@dataclass(frozen=True)
class Reference:
    """The original: its norm and head, and the entry where its hidden states lie."""

    model: LanguageModel
    folder: Path

    def logits(self, texts: ScoredTokens) -> AbstractContextManager[Callable[[slice], Tensor]]:
        """Float32 ``[n, vocabulary]`` of whichever scored tokens are asked for."""
        return self.model.logits_behind(self.folder / HIDDEN, texts)


@dataclass(frozen=True)
class TokenScores(SavedArrays):
    """Per sequence and predicted token ``[n, length - 1]``; the first token of a sequence is not predicted.

    Args:
        nll: Negative log-probability of the token that stands there, in nats.
        kl: ``KL(original || this)`` of the whole distribution, in nats.
        flips: Whether the likeliest next token differs from the original's.
        size_bytes: ``[n]``: of the text that the predicted tokens stand for; None: unknown.
    """

    nll: np.ndarray
    kl: np.ndarray
    flips: np.ndarray
    size_bytes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.nll)


def score_tokens(
    model: Decoder,
    data: TokenDataset,
    folder: Path,
    original: Reference | None,
    progress: Progress,
    what: str,
    in_file: bool = False,
) -> TokenScores:
    """Score every sequence.

    Args:
        folder: Where the original's hidden states are written.
        original: What is compared to; None: ``model`` is the original, and has moved by nothing.
        in_file: Activations lie in a file, not in memory; the original's always do.

    Raises:
        ModelError: a logit is not finite.
    """
    if data.tokens.shape[1] < 2:
        raise DataError(f"{data.name}: a sequence of one token leaves nothing to predict; length: 2 or more would do")
    tokens = torch.from_numpy(data.tokens)
    texts = ScoredTokens(tokens, torch.ones_like(tokens, dtype=torch.bool).index_fill_(1, torch.tensor([-1]), False))
    rows, targets = texts.is_scored.nonzero()[:, 0], tokens[:, 1:].reshape(-1)
    own = folder / HIDDEN if original is None else folder / ACTIVATIONS
    spill = own if in_file or original is None else None
    logits_of_parts = model.logits_at(
        [texts], most_logits(model.vocabulary, not model.blocks), CHUNK_TOKENS, spill, progress
    )
    parts = []
    compared = nullcontext() if original is None else original.logits(texts)
    with small_heap(model.reused_bytes), compared as expected:
        for part, logits in _with_progress(logits_of_parts, rows, progress, what):
            if not torch.isfinite(torch.stack(logits.aminmax())).all():
                first, last = int(rows[part.start]), int(rows[part.stop - 1])
                raise ModelError(f"{what}: the model gives NaN or infinity in sequences {first} to {last}")
            parts.append(_compared(logits, expected(part) if expected else logits, targets[part]))
            del logits
    (folder / ACTIVATIONS).unlink(missing_ok=True)
    nll, kl, flips = (np.concatenate(arrays).reshape(len(tokens), -1) for arrays in zip(*parts, strict=True))
    return TokenScores(nll, kl, flips, data.size_bytes)


def _with_progress(
    logits_of_parts: Iterator[tuple[int, slice, Tensor]], rows: Tensor, progress: Progress, what: str
) -> Iterator[tuple[slice, Tensor]]:
    """Logits as they come; the sequences before them, by ``rows`` of all scored tokens, are shown as done."""
    sequences = progress.track(range(int(rows[-1]) + 1), what, int(rows[-1]) + 1)
    at = next(sequences)
    for _, part, logits in logits_of_parts:
        while at < int(rows[part.start]):
            at = next(sequences)
        yield part, logits
        del logits  # freed before the next chunk's
    for _ in sequences:
        pass


def noise_floor(original: Reference, data: TokenDataset, progress: Progress, name: str) -> TokenScores:
    """How far the original's first sequences move when each sum is taken in another order, and nothing else changes."""
    few = TokenDataset(data.name, data.tokens[:FLOOR_SEQUENCES])
    other = InOtherOrder(original.model.folder)
    return score_tokens(other, few, original.folder, original, progress, f"score {name} in another order")


def most_logits(vocabulary: int, by_runtime: bool = False) -> int:
    """Tokens whose logits are worked out at once."""
    return max(1, min(CHUNK_TOKENS, (LOGITS_OF_RUNTIME if by_runtime else LOGITS) // vocabulary))


def chunk_sequences(length: int, vocabulary: int) -> int:
    """Whole sequences whose logits are worked out at once."""
    return max(1, most_logits(vocabulary) // length)


def _compared(logits: Tensor, reference: Tensor, targets: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if logits.shape != reference.shape:
        raise ModelError(f"the model has {logits.shape[-1]} tokens, the original {reference.shape[-1]}")
    step = max(1, ROWS // logits.shape[-1])
    pieces = zip(*(torch.split(each, step) for each in (logits, reference, targets)), strict=True)
    nll, kl, flips = (np.concatenate(column) for column in zip(*(_rows(*piece) for piece in pieces), strict=True))
    return nll, kl, flips


def _rows(logits: Tensor, reference: Tensor, targets: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Negative log-probability, KL and flips of some tokens ``[n]``, from float32 logits ``[n, vocabulary]``."""
    log_q = torch.log_softmax(logits, dim=-1)
    nll = -log_q.gather(-1, targets[:, None])[:, 0]
    if reference.data_ptr() == logits.data_ptr():
        return nll.numpy(), np.zeros(len(nll), np.float32), np.zeros(len(nll), bool)
    log_p = torch.log_softmax(reference, dim=-1)
    kl = log_q.sub_(log_p).mul_(log_p.exp_()).sum(-1).neg_().clamp_min(0)  # in place: both inputs are overwritten
    return nll.numpy(), kl.numpy(), (logits.argmax(-1) != reference.argmax(-1)).numpy()


def scoring_bytes(model: LanguageModel, length: int, sequences: int | None = None) -> int:
    """The peak of scoring sequences of that length, by shapes, activations in a file; None: a great many."""
    tokens = length * max(1, min(CHUNK_TOKENS // length, sequences or CHUNK_TOKENS))
    at_once = min(most_logits(model.vocabulary), length * (sequences or CHUNK_TOKENS))
    logits = LOGITS_HELD * FLOAT * at_once * model.vocabulary
    compared = 4 * FLOAT * min(ROWS, at_once * model.vocabulary)
    block = largest_block_bytes(model) + forward_bytes(model, tokens)
    return PROCESS_BYTES + max(2 * head_bytes(model) + logits + compared, block)


def artifact_scoring_bytes(model: LanguageModel, nbytes: int, length: int, sequences: int | None = None) -> int:
    """The same of a decoder's file of that size in ONNX Runtime, which keeps what its products gave."""
    tokens = min(most_logits(model.vocabulary, by_runtime=True), length * (sequences or CHUNK_TOKENS))
    logits = ARTIFACT_LOGITS_HELD * tokens * model.vocabulary * FLOAT
    return PROCESS_BYTES + RUNTIME_BYTES + RUN_COPIES * nbytes + logits
