"""What the original says of the sequences that a ``select`` chooses from: their loss, their mean last hidden states.

One forward of the original; a few hundred sequences are on disk at a time, and a killed run goes on behind
the last of them.
"""

from __future__ import annotations

import numpy as np
import torch

from squeeze.blocks.mapped import MappedTensor
from squeeze.data.selecting import Measured
from squeeze.data.token_dataset import TokenDataset
from squeeze.evaluate.tokens import HIDDEN, score_tokens
from squeeze.models.language.language_model import LanguageModel
from squeeze.progress import Progress
from squeeze.store import Journal
from squeeze.work import temporary_folder

PIECE_TOKENS = 1 << 16


def measured(model: LanguageModel, data: TokenDataset, hidden: bool, journal: Journal, progress: Progress) -> Measured:
    """Ask the original piece by piece.

    Args:
        hidden: Whether the hidden states are asked for, too.
    """
    size = max(1, PIECE_TOKENS // data.longest())
    starts = range(0, len(data), size)
    pieces: list[dict[str, torch.Tensor]] = []
    for number, start in enumerate(progress.track(starts, "select: the original reads", len(starts))):
        name = f"measured-{number:05d}"
        piece = journal.get(name)
        if piece is None:
            piece = _piece(model, TokenDataset(data.name, np.array(data.tokens[start : start + size])), hidden)
            journal.put(name, piece)
        pieces.append(piece)
    loss, states = (np.concatenate([piece[name].numpy() for piece in pieces]) for name in ("loss", "hidden"))
    return Measured(loss, states)


def _piece(model: LanguageModel, data: TokenDataset, hidden: bool) -> dict[str, torch.Tensor]:
    with temporary_folder("select") as folder:
        scores = score_tokens(model, data, folder, None, Progress(), "select")
        shape = (*data.tokens.shape, model.skeleton.hidden_size)
        states = MappedTensor.open(folder / HIDDEN, shape, torch.float32).tensor.mean(1)
        loss = torch.from_numpy(scores.nll.mean(1))
    return {"loss": loss, "hidden": states if hidden else states[:, :0]}
