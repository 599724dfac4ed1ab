"""How near the outputs of a model are that decide a prediction."""

from __future__ import annotations

import numpy as np


def near_share(logits: np.ndarray, rank: int, gap: float) -> float:
    """Share of examples ``[n, classes]`` whose output at that rank is less than ``gap`` above the next one."""
    if logits.shape[1] <= rank:
        return 0.0  # nothing comes after it
    falling = -np.sort(-logits.astype(np.float64), axis=1)
    return float((falling[:, rank - 1] - falling[:, rank] < gap).mean())
