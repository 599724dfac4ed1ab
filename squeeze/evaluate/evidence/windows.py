"""What a language model says of a text that a metric cuts anew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from squeeze.data.windows import WindowDataset
from squeeze.evaluate.endings import score_endings
from squeeze.evaluate.evidence.base import EVALUATE, CollectedEvidence, Sources, Subject
from squeeze.evaluate.windows import WindowScores
from squeeze.models.language.decoder import decoder_of
from squeeze.models.tasks.base import TOKENS

if TYPE_CHECKING:
    from squeeze.evaluate.metrics import Metric


class WindowEvidence(CollectedEvidence[WindowScores]):
    """Per window or document, how surprised the model is."""

    kind = "windows"
    of_outputs = TOKENS
    reads = frozenset({EVALUATE})

    def __init__(self, sources: Sources, metric: Metric) -> None:
        super().__init__(sources, metric)
        data = sources.own[metric.label]
        assert isinstance(data, WindowDataset), "the metric cut it"
        self._data = data

    @classmethod
    def scope(cls, metric: Metric) -> str:
        return str([getattr(metric, name) for name in ("convention", "length", "limit")])

    @property
    def data(self) -> WindowDataset:
        return self._data

    def collect(self, model: Subject, folder: Path) -> None:
        decoder, data = decoder_of(model.model), self.data
        scores = score_endings(decoder, data, self.sources.progress, f"score {model.name} on {data.name}")
        WindowScores.of(scores, data).save(folder)

    def read(self, folder: Path) -> WindowScores:
        return WindowScores.load(folder)
