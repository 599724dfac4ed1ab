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
from squeeze.models.language.decoder import Decoder
from squeeze.progress import Progress

CHUNK_TOKENS = 4096  # that go through a block together
LOG_PROBABILITIES = "log_probabilities.npy"


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
    chunk = max(1, CHUNK_TOKENS // tokens.shape[1])
    kept = _kept(folder, original, (len(tokens), tokens.shape[1] - 1, model.vocabulary))
    parts = []
    for part, logits in progress.track(model.logits(tokens, chunk), what, -(-len(tokens) // chunk)):
        if not torch.isfinite(logits).all():
            raise ModelError(f"{what}: the model gives NaN or infinity in sequences {part.start} to {part.stop}")
        parts.append(_chunk(logits[:, :-1], tokens[part, 1:], kept, part, own=original is None))
    return TokenScores(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _kept(folder: Path, original: Path | None, shape: tuple[int, ...]) -> np.memmap:
    if original is not None:
        stored: np.memmap = np.load(original / LOG_PROBABILITIES, mmap_mode="r")
        return stored
    return np.lib.format.open_memmap(folder / LOG_PROBABILITIES, mode="w+", dtype=np.float16, shape=shape)


def _chunk(
    logits: Tensor, targets: Tensor, kept: np.memmap, part: slice, own: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    log_q = torch.log_softmax(logits, dim=-1)
    nll = -log_q.gather(-1, targets[..., None])[..., 0]
    if own:
        kept[part] = log_q.half().numpy()
    log_p = torch.from_numpy(np.array(kept[part])).float()
    stored = log_q.half().float()  # rounded as the original's were: an unchanged model has moved by nothing
    kl = (log_p.exp() * (log_p - stored)).sum(-1).clamp_min(0)
    flips = stored.argmax(-1) != log_p.argmax(-1)
    return nll.numpy(), kl.numpy(), flips.numpy()
