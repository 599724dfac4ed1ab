"""What a language model says of the endings of texts that a metric brings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from squeeze.data.base import Dataset
from squeeze.data.choices import ChoiceDataset
from squeeze.evaluate.endings import EndingScores, score_endings
from squeeze.evaluate.evidence.base import CollectedEvidence, Sources, Subject
from squeeze.models.language.decoder import decoder_of
from squeeze.models.tasks.base import TOKENS

if TYPE_CHECKING:
    from squeeze.evaluate.metrics import Metric


class Endings(CollectedEvidence[EndingScores]):
    """How likely each ending is, and whether it is what the model would write."""

    kind = "endings"
    of_outputs = TOKENS

    def __init__(self, sources: Sources, metric: Metric) -> None:
        super().__init__(sources, metric)
        self._data = sources.own[metric.label]

    @classmethod
    def scope(cls, metric: Metric) -> str:
        return metric.label

    @property
    def data(self) -> Dataset:
        return self._data

    def collect(self, model: Subject, folder: Path) -> None:
        decoder, data, progress = decoder_of(model.model), self.data, self.sources.progress
        assert isinstance(data, ChoiceDataset), "the metric's own data"
        score_endings(decoder, data, progress, f"score {model.name} on {data.name}").save(folder)

    def read(self, folder: Path) -> EndingScores:
        return EndingScores.load(folder)
