"""Embeddings of the evaluation data, and what a linear probe on the original's embeddings makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from squeeze.errors import DataError
from squeeze.evaluate.arrays import SavedArrays
from squeeze.evaluate.evaluator import labels_of, logits_of
from squeeze.evaluate.evidence.base import EVALUATE, TRAIN, Answered, Evidence, Reading, Sources, Subject
from squeeze.evaluate.evidence.outputs import Logits

if TYPE_CHECKING:
    from squeeze.evaluate.metrics import Metric
    from squeeze.evaluate.probe import Probe


class Embeddings(Logits):
    """What an encoder gives, ``[n, width]``: in the store, the same as logits."""


class ProbedEmbeddings(Evidence):
    """The probe's logits ``[n, classes]``; it is fitted once, on the original's embeddings of ``data.train``."""

    of_outputs = Embeddings.of_outputs
    reads = frozenset({EVALUATE, TRAIN})

    def __init__(self, sources: Sources, metric: Metric) -> None:
        super().__init__(sources, metric)
        self.embeddings = Embeddings(sources, metric)

    @classmethod
    def scope(cls, metric: Metric) -> str:
        return metric.label

    def reading(self, metric: Metric, model: Subject) -> Reading | None:
        embedded = self.embeddings.reading(metric, model)
        assert isinstance(embedded, Answered)
        return embedded._replace(answers=self._probe(metric).logits(embedded.answers), again=None)  # type: ignore[arg-type]

    def _probe(self, metric: Probe) -> LinearProbe:
        train, original, progress = self.sources.train, self.sources.original, self.sources.progress
        assert train is not None, "the plan was checked"
        assert original is not None, "the metric needs it"
        inputs = {"model": original.key, "data": train.digest, "options": metric.model_dump(mode="json")}

        def write(folder: Path) -> None:
            truth = labels_of(train)
            if truth is None:
                raise DataError(f"data.train: {train.name}: {metric.name} needs labels")
            metric.fit(logits_of(original.model, train, progress, "embed data.train"), truth).save(folder)

        return self.sources.store.cached("probe", inputs, write, LinearProbe.load)


class LinearProbe(SavedArrays):
    """A linear classifier: ``[n, width]`` embeddings to ``[n, classes]`` logits."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray, classes: np.ndarray) -> None:
        self.weight, self.bias, self.classes = weight, bias, classes

    def logits(self, embeddings: np.ndarray) -> np.ndarray:
        """Of every class up to the largest of the training data; one that is absent there is never chosen."""
        scores = np.full((len(embeddings), int(self.classes.max()) + 1), -np.inf)
        scores[:, self.classes] = np.einsum("nw,cw->nc", embeddings, self.weight, dtype=np.float64) + self.bias
        return scores
