"""Run a model over a dataset and keep its outputs. One evaluator serves all forms."""

from __future__ import annotations

import numpy as np

from squeeze.data.base import Dataset
from squeeze.errors import ModelError
from squeeze.models.base import Model
from squeeze.progress import Progress

BATCH = 64


def logits_of(model: Model, data: Dataset, progress: Progress | None = None, what: str = "score") -> np.ndarray:
    """Logits ``[n, classes]`` float32 of every example, in the data's own order.

    Raises:
        ModelError: a logit is not a finite number.
    """
    steps = -(-len(data) // BATCH)
    watched = (progress or Progress()).track(data.batches(BATCH), what, steps)
    logits = np.concatenate([model.predict(batch).numpy() for batch in watched])
    bad = np.flatnonzero(~np.isfinite(logits).all(1))
    if len(bad):
        raise ModelError(f"{what}: the model gives NaN or infinity on {len(bad)} of {len(logits)} examples")
    return logits


def labels_of(data: Dataset) -> np.ndarray | None:
    """Labels ``[n]``, or None where the data has none."""
    labels = np.array([data.label(index) for index in range(len(data))], dtype=np.int64)
    return None if (labels < 0).any() else labels
