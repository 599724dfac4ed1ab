"""From a kept model to a row of the ledger: logits once per model and data, paired deltas, the clock side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from squeeze.data.base import Dataset
from squeeze.data.choices import ChoiceDataset
from squeeze.data.text import TokenDataset
from squeeze.errors import DataError
from squeeze.evaluate.choice import OwnDataMetric
from squeeze.evaluate.endings import EndingScores, score_endings
from squeeze.evaluate.evaluator import labels_of, logits_of
from squeeze.evaluate.metrics import Answers, Estimate, EstimateMetric, ExampleMetric, Metric
from squeeze.evaluate.probe import Fitted, Probe
from squeeze.evaluate.tokens import TokenScores, score_tokens
from squeeze.ledger import Answered, Estimated, Measured, Row, ScoredOn, measure, scores
from squeeze.models.language.decoder import Decoder
from squeeze.progress import Progress
from squeeze.run.kept import Kept
from squeeze.run.timer import Timer
from squeeze.store import Store
from squeeze.versions import source_digest


class Scorer:
    """Scores models on one dataset, each against the original and the row before it.

    Args:
        own: By a metric's label, the data that it brings itself.
        root: Folder that paths in metrics start from.
        train: What a probe is fitted on.
    """

    def __init__(
        self,
        metrics: Sequence[Metric],
        data: Dataset | None,
        store: Store,
        progress: Progress,
        original: Kept,
        own: Mapping[str, Dataset] | None = None,
        root: Path | None = None,
        train: Dataset | None = None,
    ) -> None:
        self.metrics, self.data, self.store, self.progress = list(metrics), data, store, progress
        self.original, self.own, self.root, self.train = original, dict(own or {}), root or Path.cwd(), train
        on_data = [m for m in metrics if isinstance(m, ExampleMetric) and not isinstance(m, OwnDataMetric)]
        scored = data is not None and bool(on_data)
        self.scored_on = ScoredOn(data.name, data.digest, len(data)) if data is not None and scored else None
        self.labels = labels_of(data) if data is not None and scored else None
        self.timer = Timer(metrics, data, store, progress, original)
        self._measured: dict[str, Measured] = {}

    def row(
        self,
        kept: Kept,
        name: str,
        branch: str | None,
        options: dict[str, Any],
        previous: Kept | None,
        again: Sequence[Kept] = (),
    ) -> Row:
        """Measure one model; ``previous`` is None for the original itself.

        Args:
            again: What the same pass made of other calibration samples; the row tells how far its scores spread.
        """
        new, original = self.measured(kept, name), self.measured(self.original, "original")
        before = self.measured(previous, name) if previous else None
        timings, clock = self.timer.row(kept, previous) if previous else ({}, {})
        found = scores(self.metrics, self.labels, new, original, before)
        others = [scores(self.metrics, self.labels, self.measured(one, name), original, None) for one in again]
        spread = {
            label: [score.value, *(other[label].value for other in others)]
            for label, score in found.items()
            if score.interval is not None  # bytes and counts are exact
        }
        told = timings, kept.measured | clock, spread if again else {}
        return Row(name, branch, kept.model.form, kept.key, options, found, kept.facts, *told)

    def measured(self, kept: Kept, name: str) -> Measured:
        """Logits and exact numbers of a model, worked out once."""
        if kept.key not in self._measured:
            answers = self._answers(kept, name) if self.scored_on else None
            own = {label: self._endings(kept, name, data) for label, data in self.own.items()}
            if isinstance(answers, np.ndarray) and self.scored_on:
                probes = [metric for metric in self.metrics if isinstance(metric, Probe)]
                own |= {m.label: Answered(self._fitted(m).logits(answers), self.scored_on) for m in probes}
            told = {m.label: self._estimated(kept, name, m) for m in self.metrics if isinstance(m, EstimateMetric)}
            self._measured[kept.key] = measure(kept.model, self.metrics, answers, self.scored_on, own, told)
        return self._measured[kept.key]

    def _fitted(self, metric: Probe) -> Fitted:
        """The probe on the original's embeddings of the training data, fitted once."""
        train, original = self.train, self.original
        assert train is not None, "the plan was checked"
        inputs = {"model": original.key, "data": train.digest, "options": metric.model_dump(mode="json")}

        def write(folder: Path) -> None:
            truth = labels_of(train)
            if truth is None:
                raise DataError(f"data.train: {train.name}: {metric.name} needs labels")
            metric.fit(logits_of(original.model, train, self.progress, "embed data.train"), truth).save(folder)

        return self.store.cached("probe", inputs, write, Fitted.load)

    def _estimated(self, kept: Kept, name: str, metric: EstimateMetric) -> Estimated:
        """What another tool says, asked once."""
        inputs: dict[str, Any] = {"model": kept.key, "metric": metric.name, "asked": metric.makings(self.root)}
        inputs["code"] = source_digest(type(metric))

        def write(folder: Path) -> None:
            found = metric.estimate(kept.model, self.root, self.progress)
            (folder / "estimate.json").write_text(json.dumps(found._asdict()))

        def read(folder: Path) -> Estimate:
            return Estimate(**json.loads((folder / "estimate.json").read_text()))

        found = self.store.cached("estimate", inputs, write, read, f"{metric.label} of {name}")
        return Estimated(found.value, found.standard_error, ScoredOn(found.data, found.sha256, found.examples))

    def _endings(self, kept: Kept, name: str, data: Dataset) -> Answered:
        """What a language model says of questions that a metric brings."""
        model = kept.model
        assert isinstance(data, ChoiceDataset)
        assert isinstance(model, Decoder)
        inputs = {"model": kept.key, "data": data.digest}

        def write(folder: Path) -> None:
            score_endings(model, data, self.progress, f"score {name} on {data.name}").save(folder)

        found = self.store.cached("endings", inputs, write, EndingScores.load, f"endings of {name}")
        return Answered(found, ScoredOn(data.name, data.digest, len(data)))

    def _answers(self, kept: Kept, name: str) -> Answers:
        return self._tokens(kept, name) if isinstance(kept.model, Decoder) else self._logits(kept, name)

    def _tokens(self, kept: Kept, name: str) -> TokenScores:
        """What a language model says; the original's log-probabilities lie in its own entry."""
        data, model, own = self.data, kept.model, kept.key == self.original.key
        assert isinstance(data, TokenDataset)
        assert isinstance(model, Decoder)
        original = None if own else self._token_entry(self.original.key, data)
        inputs = {"model": kept.key, "original": self.original.key, "data": data.digest}

        def write(folder: Path) -> None:
            score_tokens(model, data, folder, original, self.progress, f"score {name}").save(folder)

        return self.store.cached("tokens", inputs, write, TokenScores.load, f"tokens of {name}")

    def _token_entry(self, key: str, data: Dataset) -> Path:
        inputs = {"model": key, "original": self.original.key, "data": data.digest}
        found = self.store.get(self.store.key("tokens", inputs))
        assert found is not None, "the original is scored first"
        return found

    def _logits(self, kept: Kept, name: str) -> np.ndarray:
        data = self.data
        assert data is not None
        inputs = {"model": kept.key, "data": data.digest}

        def write(folder: Path) -> None:
            np.save(folder / "logits.npy", logits_of(kept.model, data, self.progress, f"score {name}"))

        def read(folder: Path) -> np.ndarray:
            logits: np.ndarray = np.load(folder / "logits.npy")
            return logits

        return self.store.cached("logits", inputs, write, read, f"logits of {name}")
