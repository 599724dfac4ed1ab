"""What is measured of a model, each from its kind of evidence: per example, of the model as stored, or time.

A metric gives values; deltas, intervals and verdicts are the ledger's business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import scipy
from pydantic import Field, PositiveFloat, PositiveInt

from squeeze.data.base import Dataset
from squeeze.data.documents import Documents
from squeeze.data.sources import DataSource
from squeeze.errors import DataError
from squeeze.evaluate.endings import EndingScores
from squeeze.evaluate.evidence.base import Estimate, Evidence
from squeeze.evaluate.evidence.facts import Clock, Estimates, ModelFacts
from squeeze.evaluate.evidence.outputs import Logits, Outputs
from squeeze.evaluate.labels import required_labels
from squeeze.evaluate.tokens import TokenScores
from squeeze.evaluate.windows import WindowScores
from squeeze.formats.grid_kind import GridKind
from squeeze.models.base import Model
from squeeze.models.options import Options, Unused
from squeeze.models.tasks.base import TOKENS, Task, models_that_give
from squeeze.progress import Progress

Unit = Literal["share", "nats", "bytes", "count", "ratio", "perplexity", "bits", "cosine"]
Answers = np.ndarray | TokenScores | EndingScores | WindowScores  # logits [n, classes], or what is said of texts
SHARE_ROUNDING = 1e-12  # rounding of a mean of yes and no

MEAN = (
    "a mean over independent units; nothing is judged below 10 of them, and where values are more skewed than a "
    "lognormal of sigma 1 its interval is too narrow"
)
SHARE = (
    "a share of yes; where few examples change, its interval is wider than need be; wrong labels count as right ones do"
)
DISTANCE = "how far from the original, not whether that is worse: no verdict; below its noise floor it says nothing"


class Metric(Options, ABC):
    """A named measurement; its fields are the options a plan may give it."""

    name: ClassVar[str]
    unit: ClassVar[Unit]
    higher_is_better: ClassVar[bool] = False
    evidence: ClassVar[type[Evidence]]  # what it is computed from; run and verify share the collector
    needs_labels: ClassVar[bool] = False
    needs_original: ClassVar[bool] = False  # defined only relative to an original: KL, flips, cosine
    distance: ClassVar[bool] = False  # a distance from the original, which has no better or worse and no verdict
    limits: ClassVar[str] = "its author names none"
    """What its interval rests on and what it does not say; shown by ``squeeze metrics NAME``."""

    @property
    def label(self) -> str:
        """What the ledger calls it: its name, and its data's where it brings some of its own."""
        return self.name

    def own_data(self) -> DataSource | None:
        """The data that the metric brings; None: it is scored on the plan's."""
        return None

    def documents(self, root: Path) -> Documents | None:
        """What another tool asks of the model, to be held against calibration text; None: nothing beside its data.

        Raises:
            DataError: it cannot be read here, without the network.
        """
        return None

    def reads(self) -> frozenset[str]:
        """Roles of the plan's data that it is measured on."""
        return self.evidence.reads

    def evidence_of(self, task: Task) -> type[Evidence]:
        """The kind of evidence of a model with this task."""
        return self.evidence.for_task(task)

    def cut(self, evaluate: Dataset) -> Dataset | None:
        """The evaluation data as this metric cuts it anew; None: it is scored on it as it is."""
        return None

    def misfit(self, task: Task, this: str) -> str | None:
        """Why it is no metric of models with this task; None: it is. ``this`` is what messages call the model."""
        outputs = self.evidence_of(task).of_outputs
        if outputs in (None, task.outputs):
            return None
        return f"{self.name} is of {models_that_give(outputs)}; this is {this}"

    def faults(self, root: Path) -> Iterator[str]:
        """What is missing, found before the run."""
        return iter(())

    def needs_same_tokens(self) -> bool:
        """Whether it says nothing of a model whose tokens are other ones than the original's."""
        return self.evidence is not ModelFacts

    def tolerance(self, value: float) -> float:
        """How far two correct computations on the same data may differ in ``value``, by the metric's arithmetic."""
        return 0.0


class ExampleMetric(Metric):
    """One value per example, from logits ``[n, classes]``, labels ``[n]`` and the original's logits."""

    evidence: ClassVar[type[Evidence]] = Outputs
    limits: ClassVar[str] = MEAN
    rank: ClassVar[int | None] = None  # rank of the logit that decides an answer; 1: the largest
    counts: ClassVar[bool] = False  # yes/no per example: shares, and paired tables of them
    logarithmic: ClassVar[bool] = False  # ``shown`` is exp, so a difference of means is the logarithm of a ratio
    rounding: ClassVar[float] = 1e-6  # per example: another order of summation, not another model

    @abstractmethod
    def per_example(self, logits: np.ndarray, labels: np.ndarray | None, original: np.ndarray) -> np.ndarray:
        """``[n]``, float or bool."""

    def per_sequence(self, scores: TokenScores) -> np.ndarray:
        """``[n]`` floats, one per token sequence of a language model."""
        raise DataError(f"{self.name} is of classifiers; perplexity, kl and flips are of language models")

    def values(self, answers: Answers, labels: np.ndarray | None, original: Answers) -> np.ndarray:
        """One value per example or sequence."""
        if isinstance(answers, TokenScores):
            return self.per_sequence(answers)
        if isinstance(answers, WindowScores):
            raise DataError(f"{self.name} goes token by token, and the model has others than the original")
        assert isinstance(answers, np.ndarray), "endings are scored by metrics that bring them"
        assert isinstance(original, np.ndarray), "both are scored on the same data"
        return self.per_example(answers, labels, original)

    def shown(self, mean: np.ndarray) -> np.ndarray:
        """What the ledger shows of a mean over examples."""
        return mean

    def tolerance(self, value: float) -> float:
        """Counted: the division alone rounds; else each example's rounding, relative where values are large."""
        return SHARE_ROUNDING if self.counts else self.rounding * max(1.0, abs(value))


class ModelMetric(Metric):
    """One exact number of the model itself."""

    limits: ClassVar[str] = "counted, not estimated: no interval"
    evidence = ModelFacts

    @abstractmethod
    def value(self, model: Model) -> int | None:
        """None where it is not known, which is never 0."""


class EstimateMetric(Metric):
    """A score that another tool works out on data of its own; it is compared by its standard error, unpaired."""

    limits: ClassVar[str] = "from two standard errors, unpaired: its interval is wider than over the same examples"
    evidence = Estimates

    def tolerance(self, value: float) -> float:
        return SHARE_ROUNDING

    @abstractmethod
    def cache_inputs(self, root: Path) -> dict[str, Any]:
        """JSON values that decide the result beside the model: what the store's key is made of."""

    @abstractmethod
    def estimate(self, model: Model, root: Path, progress: Progress) -> Estimate:
        """Ask; paths are relative to ``root``."""


class Top1(ExampleMetric):
    """Share of examples whose highest logit is the label's."""

    limits = SHARE

    name, unit, higher_is_better, counts, needs_labels = "top1", "share", True, True, True
    rank = 1
    evidence = Logits

    def per_example(self, logits: np.ndarray, labels: np.ndarray | None, original: np.ndarray) -> np.ndarray:
        return np.asarray(logits.argmax(1) == required_labels(labels, logits, self.name))


class Top5(ExampleMetric):
    """Share of examples whose label is among the five highest logits."""

    limits = SHARE

    name, unit, higher_is_better, counts, needs_labels = "top5", "share", True, True, True
    rank = 5
    evidence = Logits

    def per_example(self, logits: np.ndarray, labels: np.ndarray | None, original: np.ndarray) -> np.ndarray:
        five = np.argsort(-logits, axis=1, kind="stable")[:, :5]
        return np.asarray((five == required_labels(labels, logits, self.name)[:, None]).any(1))


class Loss(ExampleMetric):
    """Cross-entropy in nats."""

    name, unit, needs_labels = "loss", "nats", True

    def per_example(self, logits: np.ndarray, labels: np.ndarray | None, original: np.ndarray) -> np.ndarray:
        truth = required_labels(labels, logits, self.name)
        return np.asarray(-scipy.special.log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(truth)), truth])

    def per_sequence(self, scores: TokenScores) -> np.ndarray:
        return np.asarray(scores.nll.mean(1))


class Kl(ExampleMetric):
    """``KL(original || this)`` in nats: how far the whole distribution moved; needs no labels."""

    limits = DISTANCE

    name, unit, distance = "kl", "nats", True
    needs_original = True
    rounding = 1e-6  # float32 logits of an unchanged model, added up in another order

    def per_example(self, logits: np.ndarray, labels: np.ndarray | None, original: np.ndarray) -> np.ndarray:
        p, q = (scipy.special.log_softmax(values.astype(np.float64), axis=1) for values in (original, logits))
        return np.asarray(np.maximum((np.exp(p) * (p - q)).sum(1), 0))  # never below 0 but for rounding

    def per_sequence(self, scores: TokenScores) -> np.ndarray:
        return np.asarray(scores.kl.mean(1))


class Flips(ExampleMetric):
    """Share of predictions that differ from the original's; needs no labels."""

    limits = DISTANCE

    name, unit, counts, distance = "flips", "share", True, True
    rank = 1
    needs_original = True

    def per_example(self, logits: np.ndarray, labels: np.ndarray | None, original: np.ndarray) -> np.ndarray:
        return np.asarray(logits.argmax(1) != original.argmax(1))

    def per_sequence(self, scores: TokenScores) -> np.ndarray:
        return np.asarray(scores.flips.mean(1))


class ClockMetric(Metric):
    """A ratio of two times: fresh sessions of both models in turn, their runs alternating."""

    limits: ClassVar[str] = (
        "of one host; no verdict within 2 % or within what the host shows of the original against itself"
    )

    unit = "ratio"
    evidence: ClassVar[type[Evidence]] = Clock

    threads: PositiveInt = 1
    """Of the runtime, for both models."""
    seconds: PositiveFloat = 1.0
    """Of alternating runs in the first `sessions`; warming and further sessions may take up to 30 times as long."""
    sessions: int = Field(default=8, ge=4, multiple_of=2)
    """Fresh ones of each model, half of them opened first; up to four times as many where the interval is too wide to
    tell 3 % from nothing."""


class Latency(ClockMetric):
    """Time for one batch in ONNX Runtime, as a ratio to the original's: of data.evaluate, or of the golden input where
    a plan names no data."""

    name = "latency"

    batch: PositiveInt = 1
    """Examples in the batch."""
    runtime: Literal["onnxruntime", "own"] = "onnxruntime"
    """What times torch models: ONNX Runtime, so that an export is no change, or torch itself (own)."""

    def unused(self, model: Model, grid: Mapping[str, GridKind] | None) -> Iterator[Unused]:
        if model.form == "onnx":
            yield Unused("runtime", "is of torch models; an ONNX model is timed in ONNX Runtime: leave it out")

    def misfit(self, task: Task, this: str) -> str | None:
        if task.outputs != TOKENS:
            return None
        return f"{self.name} is of batches; a language model is timed as it reads and writes: prefill, decode"
