"""Labels that a score needs, held against the classes that a model knows."""

from __future__ import annotations

import numpy as np

from squeeze.errors import DataError


def required_labels(labels: np.ndarray | None, logits: np.ndarray, metric: str) -> np.ndarray:
    """The labels, ``[n]``, each of them a class that the model knows."""
    if labels is None:
        raise DataError(f"{metric} needs labels; the evaluation data has none: kl and flips can do without")
    require_known_classes(labels, logits.shape[1], metric)
    return labels


def require_known_classes(labels: np.ndarray, classes: int, where: str) -> None:
    """Raise ``DataError`` where a label is none of the model's classes."""
    highest = int(labels.max(initial=0))
    if highest >= classes:
        raise DataError(f"{where}: label {highest} is outside the model's {classes} classes, 0 to {classes - 1}")
