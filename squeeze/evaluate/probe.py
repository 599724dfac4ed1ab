"""Scores of models that give embeddings instead of logits: a linear probe on top, and how far they have turned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import PositiveFloat

from squeeze.errors import DataError
from squeeze.evaluate.metrics import ExampleMetric, required_labels


class Probe(ExampleMetric):
    """Share of examples that a linear classifier gets right, fitted on the original's embeddings of ``data.train``.

    The same classifier for every row, so that what is measured is the embeddings.
    """

    name, unit, higher_is_better, counts, needs_labels = "probe", "share", True, True, True

    penalty: PositiveFloat = 0.1  # on large weights; of logistic regression, 1 / C

    def per_example(self, logits: np.ndarray, labels: np.ndarray | None, original: np.ndarray) -> np.ndarray:
        return np.asarray(logits.argmax(1) == required_labels(labels, logits, self.name))

    def fit(self, embeddings: np.ndarray, labels: np.ndarray) -> Fitted:
        """Fit the classifier; the same numbers each time."""
        from sklearn.linear_model import LogisticRegression

        classes = np.unique(labels)
        if len(classes) < 2 or classes[0] < 0:
            raise DataError(f"{self.name}: data.train has {len(classes)} classes; labels of two or more would do")
        found = LogisticRegression(C=1 / self.penalty, max_iter=2000).fit(embeddings.astype(np.float64), labels)
        weight, bias = found.coef_, found.intercept_
        if len(weight) == 1:  # two classes are told by one number
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        return Fitted(weight, bias, classes)


class Cosine(ExampleMetric):
    """Cosine between an embedding and the original's: 1 where it has not turned."""

    name, unit, higher_is_better = "cosine", "cosine", True
    rounding = 1e-6

    def per_example(self, logits: np.ndarray, labels: np.ndarray | None, original: np.ndarray) -> np.ndarray:
        a, b = logits.astype(np.float64), original.astype(np.float64)
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        return np.asarray((a * b).sum(1) / np.maximum(lengths, 1e-12))


class Fitted:
    """A linear classifier: ``[n, width]`` embeddings to ``[n, classes]`` logits."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray, classes: np.ndarray) -> None:
        self.weight, self.bias, self.classes = weight, bias, classes

    def logits(self, embeddings: np.ndarray) -> np.ndarray:
        """Of every class up to the largest that was seen; one that was not is never chosen."""
        scores = np.full((len(embeddings), int(self.classes.max()) + 1), -np.inf)
        scores[:, self.classes] = embeddings.astype(np.float64) @ self.weight.T + self.bias
        return scores

    def save(self, folder: Path) -> None:
        """Write the arrays."""
        np.savez(folder / "probe.npz", **vars(self))

    @classmethod
    def load(cls, folder: Path) -> Fitted:
        """Read what :meth:`save` wrote."""
        with np.load(folder / "probe.npz") as arrays:
            return cls(arrays["weight"], arrays["bias"], arrays["classes"])
