"""What a language model says of token sequences: per token how surprised it is, and how far it moved from the original.

The original's log-probabilities are kept on disk once, as float16, so that every later model is compared with the very
same numbers; nothing larger than a chunk is in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from squeeze.data.text import TokenDataset
from squeeze.errors import DataError, ModelError
from squeeze.evaluate.kept_log_probabilities import KeptLogProbabilities
from squeeze.models.language.decoder import Decoder
from squeeze.models.language.footprint import PROCESS_BYTES, forward_bytes, head_bytes, largest_block_bytes
from squeeze.models.language.language_model import LanguageModel
from squeeze.progress import Progress

CHUNK_TOKENS = 4096  # that go through a block together, fewer where the vocabulary is large
LOGITS = 2**26  # of a chunk, 256 MB
ROWS = 2**24  # logits that are looked at together, 64 MB


@dataclass(frozen=True)
class TokenScores:
    """Per sequence and predicted token ``[n, length - 1]``; the first token of a sequence is not predicted.

    Args:
        nll: Negative log-probability of the token that stands there, in nats.
        kl: ``KL(original || this)`` of the whole distribution, in nats.
        flips: Whether the likeliest next token differs from the original's.
    """

    nll: np.ndarray
    kl: np.ndarray
    flips: np.ndarray

    def __len__(self) -> int:
        return len(self.nll)

    def save(self, folder: Path) -> None:
        """Write the arrays."""
        np.savez(folder / "tokens.npz", nll=self.nll, kl=self.kl, flips=self.flips)

    @classmethod
    def load(cls, folder: Path) -> TokenScores:
        """Read what :meth:`save` wrote."""
        with np.load(folder / "tokens.npz") as arrays:
            return cls(arrays["nll"], arrays["kl"], arrays["flips"])


def score_tokens(
    model: Decoder, data: TokenDataset, folder: Path, original: Path | None, progress: Progress, what: str
) -> TokenScores:
    """Score every sequence.

    Args:
        folder: Where the original's own log-probabilities are written.
        original: Where they lie; None: ``model`` is the original.

    Raises:
        ModelError: a logit is not finite.
    """
    if data.tokens.shape[1] < 2:
        raise DataError(f"{data.name}: a sequence of one token leaves nothing to predict; length: 2 or more would do")
    tokens = torch.from_numpy(data.tokens)
    chunk = chunk_sequences(tokens.shape[1], model.vocabulary)
    shape = (len(tokens), tokens.shape[1] - 1, model.vocabulary)
    kept = KeptLogProbabilities(folder, shape) if original is None else KeptLogProbabilities(original)
    parts = []
    for part, logits in progress.track(model.logits(tokens, chunk), what, -(-len(tokens) // chunk)):
        if not torch.isfinite(logits).all():
            raise ModelError(f"{what}: the model gives NaN or infinity in sequences {part.start} to {part.stop}")
        parts.append(_chunk(logits[:, :-1], tokens[part, 1:], kept, part, own=original is None))
    return TokenScores(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def chunk_sequences(length: int, vocabulary: int) -> int:
    """How many sequences go through the model together."""
    return max(1, min(CHUNK_TOKENS, LOGITS // vocabulary) // length)


def _chunk(
    logits: Tensor, targets: Tensor, kept: KeptLogProbabilities, part: slice, own: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    flat, wanted = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    step = max(1, ROWS // flat.shape[-1])
    places = [slice(start, min(start + step, len(flat))) for start in range(0, len(flat), step)]
    parts = [_rows(flat[rows], wanted[rows], kept, part, rows, own) for rows in places]
    nll, kl, flips = (np.concatenate(column).reshape(targets.shape) for column in zip(*parts, strict=True))
    return nll, kl, flips


def _rows(
    logits: Tensor, targets: Tensor, kept: KeptLogProbabilities, part: slice, rows: slice, own: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    log_q = torch.log_softmax(logits, dim=-1)
    nll = -log_q.gather(-1, targets[:, None])[:, 0]
    stored = log_q.half()  # rounded as the original's were: an unchanged model has moved by nothing
    if own:
        kept.write(part, rows, stored.numpy())
    log_p, stored = torch.from_numpy(kept.read(part, rows)).float(), stored.float()
    kl = (log_p.exp() * (log_p - stored)).sum(-1).clamp_min(0)
    return nll.numpy(), kl.numpy(), (stored.argmax(-1) != log_p.argmax(-1)).numpy()


def scoring_bytes(model: LanguageModel, length: int, sequences: int | None = None) -> int:
    """The peak of scoring sequences of that length, by the model's shapes; None: a great many."""
    together = chunk_sequences(length, model.vocabulary)
    tokens = length * (together if sequences is None else min(together, sequences))
    logits = tokens * model.vocabulary * 4
    looked_at = 6 * 4 * min(ROWS, tokens * model.vocabulary)
    block = largest_block_bytes(model) + forward_bytes(model, tokens)
    return PROCESS_BYTES + max(head_bytes(model) + logits * 3 // 2 + looked_at, block)
