"""Scores of models that give embeddings instead of logits: a linear probe on top, and how far they have turned."""

from __future__ import annotations

import numpy as np
from pydantic import PositiveFloat

from squeeze.errors import DataError
from squeeze.evaluate.evidence.embeddings import Embeddings, LinearProbe, ProbedEmbeddings
from squeeze.evaluate.labels import required_labels
from squeeze.evaluate.metrics import DISTANCE, SHARE, ExampleMetric


class Probe(ExampleMetric):
    """Share of examples that a linear classifier gets right, fitted on the original's embeddings of ``data.train``.

    The same classifier for every row, so that what is measured is the embeddings.
    """

    limits = SHARE

    name, unit, higher_is_better, counts, needs_labels = "probe", "share", True, True, True

    evidence = ProbedEmbeddings
    needs_original = True

    penalty: PositiveFloat = 0.1
    """On large weights of the classifier: 1 / C of logistic regression."""

    def per_example(self, logits: np.ndarray, labels: np.ndarray | None, original: np.ndarray) -> np.ndarray:
        return np.asarray(logits.argmax(1) == required_labels(labels, logits, self.name))

    def fit(self, embeddings: np.ndarray, labels: np.ndarray) -> LinearProbe:
        """Fit the classifier; the same numbers each time."""
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits

        classes = np.unique(labels)
        if len(classes) < 2 or classes[0] < 0:
            raise DataError(f"{self.name}: data.train has {len(classes)} classes; labels of two or more would do")
        with threadpool_limits(1, "blas"):  # with more threads, sums are added in another order
            model = LogisticRegression(C=1 / self.penalty, max_iter=2000).fit(embeddings.astype(np.float64), labels)
        weight, bias = model.coef_, model.intercept_
        if len(weight) == 1:  # sklearn gives one row of weights for two classes
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        return LinearProbe(weight, bias, classes)


class Cosine(ExampleMetric):
    """Cosine between an embedding and the original's: 1 where it has not turned."""

    limits = DISTANCE

    name, unit, higher_is_better, distance = "cosine", "cosine", True, True
    evidence = Embeddings
    needs_original = True
    rounding = 1e-6

    def per_example(self, logits: np.ndarray, labels: np.ndarray | None, original: np.ndarray) -> np.ndarray:
        a, b = logits.astype(np.float64), original.astype(np.float64)
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        return np.asarray((a * b).sum(1) / np.maximum(lengths, 1e-12))
