"""What a language model says of token sequences: per token how surprised it is, and how far it moved from the original.

The original is kept on disk once, as what comes out of its last block: float32, ``4 x hidden`` bytes a token, where its
log-probabilities would take ``4 x vocabulary``. When a model is compared, the original's norm and head are applied
again, chunk by chunk, so both sides are exact float32 logits; nothing larger than a chunk is in memory.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from squeeze.data.text import TokenDataset
from squeeze.errors import DataError, ModelError
from squeeze.evaluate.arrays import SavedArrays
from squeeze.models.language.decoder import Decoder
from squeeze.models.language.footprint import (
    FLOAT,
    PROCESS_BYTES,
    RUN_COPIES,
    forward_bytes,
    head_bytes,
    largest_block_bytes,
)
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.other_order import InOtherOrder
from squeeze.progress import Progress

CHUNK_TOKENS = 4096  # that go through a block together, fewer where the vocabulary is large
LOGITS = 2**24  # of a chunk, 64 MB; one sequence may have more
FLOOR_SEQUENCES = 4  # that are scored once more to learn what rounding alone reads as
LOGITS_HELD = 3  # times a chunk's: the model's, the original's, and those in another order of summation
ARTIFACT_LOGITS_HELD = 5  # and what ONNX Runtime's arena keeps beside them
RUNTIME_BYTES = 290_000_000  # code of ONNX Runtime and the exporter, and what both keep; fitted on four models
ROWS = 2**22  # logits that are compared together, 16 MB
HIDDEN = "hidden.f32"  # of the original, what comes out of the last block, [sequences, length, hidden]
ACTIVATIONS = "activations.f32"  # of a model that is compared, while it is scored


@dataclass(frozen=True)
class Reference:
    """The original: its norm and head, and the entry where its hidden states lie."""

    model: LanguageModel
    folder: Path

    def logits(self, tokens: Tensor, chunk: int) -> Generator[tuple[slice, Tensor], None, None]:
        """Float32 ``[n, length, vocabulary]``, in the chunks of the model that is compared."""
        yield from self.model.logits_of(self.folder / HIDDEN, tokens, chunk)


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
    chunk = chunk_sequences(tokens.shape[1], model.vocabulary)
    own = folder / HIDDEN if original is None else folder / ACTIVATIONS
    spill = own if in_file or original is None else None
    expected = None if original is None else original.logits(tokens, chunk)
    parts = []
    with nullcontext() if expected is None else closing(expected):  # not left to the collector: it holds the weights
        for part, logits in progress.track(model.logits(tokens, chunk, spill), what, -(-len(tokens) // chunk)):
            if not torch.isfinite(logits).all():
                raise ModelError(f"{what}: the model gives NaN or infinity in sequences {part.start} to {part.stop}")
            reference = logits if expected is None else next(expected)[1]
            parts.append(_chunk(logits[:, :-1], reference[:, :-1], tokens[part, 1:]))
    (folder / ACTIVATIONS).unlink(missing_ok=True)
    nll, kl, flips = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return TokenScores(nll, kl, flips, data.size_bytes)


def noise_floor(original: Reference, data: TokenDataset, progress: Progress, name: str) -> TokenScores:
    """How far the original's first sequences move when each sum is taken in another order, and nothing else changes."""
    few = TokenDataset(data.name, data.tokens[:FLOOR_SEQUENCES])
    other = InOtherOrder(original.model.folder)
    return score_tokens(other, few, original.folder, original, progress, f"score {name} in another order")


def chunk_sequences(length: int, vocabulary: int) -> int:
    """How many sequences go through the model together."""
    return max(1, min(CHUNK_TOKENS, LOGITS // vocabulary) // length)


def _chunk(logits: Tensor, reference: Tensor, targets: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if logits.shape != reference.shape:
        raise ModelError(f"the model has {logits.shape[-1]} tokens, the original {reference.shape[-1]}")
    flat, expected, wanted = logits.flatten(0, 1), reference.flatten(0, 1), targets.reshape(-1)
    step = max(1, ROWS // flat.shape[-1])
    places = [slice(start, min(start + step, len(flat))) for start in range(0, len(flat), step)]
    parts = [_rows(flat[rows], expected[rows], wanted[rows]) for rows in places]
    nll, kl, flips = (np.concatenate(column).reshape(targets.shape) for column in zip(*parts, strict=True))
    return nll, kl, flips


def _rows(logits: Tensor, reference: Tensor, targets: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Negative log-probability, KL and flips of some tokens ``[n]``, from float32 logits ``[n, vocabulary]``."""
    log_q = torch.log_softmax(logits, dim=-1)
    nll = -log_q.gather(-1, targets[:, None])[:, 0]
    if reference.data_ptr() == logits.data_ptr():
        return nll.numpy(), np.zeros(len(nll), np.float32), np.zeros(len(nll), bool)
    log_p = torch.log_softmax(reference, dim=-1)
    kl = log_q.sub_(log_p).mul_(log_p.exp_()).sum(-1).neg_().clamp_min(0)  # both are spoilt: nothing larger is held
    return nll.numpy(), kl.numpy(), (logits.argmax(-1) != reference.argmax(-1)).numpy()


def scoring_bytes(model: LanguageModel, length: int, sequences: int | None = None) -> int:
    """The peak of scoring sequences of that length, by shapes, activations in a file; None: a great many."""
    together = chunk_sequences(length, model.vocabulary)
    tokens = length * (together if sequences is None else min(together, sequences))
    logits = LOGITS_HELD * tokens * model.vocabulary * FLOAT
    compared = 4 * FLOAT * min(ROWS, tokens * model.vocabulary)
    block = largest_block_bytes(model) + forward_bytes(model, tokens)
    return PROCESS_BYTES + max(2 * head_bytes(model) + logits + compared, block)


def artifact_scoring_bytes(model: LanguageModel, nbytes: int, length: int, sequences: int | None = None) -> int:
    """The same of a decoder's file of that size in ONNX Runtime, which keeps what its products gave."""
    together = chunk_sequences(length, model.vocabulary)
    tokens = length * (together if sequences is None else min(together, sequences))
    logits = ARTIFACT_LOGITS_HELD * tokens * model.vocabulary * FLOAT
    return PROCESS_BYTES + RUNTIME_BYTES + RUN_COPIES * nbytes + logits
