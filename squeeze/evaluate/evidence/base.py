"""Evidence: what a model answers or is, collected once per model and read by every metric that needs it.

A metric names its kind of evidence (``Metric.evidence``). A collector knows its data, what decides the result (for the
store's key), how to collect from a model, and how to write and read the result. Deltas are the ledger's business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np

from squeeze.data.base import Dataset
from squeeze.models.base import Model
from squeeze.models.tasks.base import Task
from squeeze.progress import Progress
from squeeze.store import Store
from squeeze.versions import source_digest

if TYPE_CHECKING:
    from squeeze.evaluate.metrics import Metric

T = TypeVar("T")
EVALUATE, TRAIN = "evaluate", "train"


@dataclass(frozen=True)
class ScoredOn:
    """Which data a score belongs to; scores on different data are never compared.

    Args:
        units: Independent ones: parts of one document are one, and so are copies; None: unknown.
        copies: Examples that are copies of an earlier one.
        tokens: That are predicted; None: it is no text.
    """

    name: str
    sha256: str
    examples: int
    units: int | None = None
    copies: int = 0
    tokens: int | None = None

    @classmethod
    def of(cls, data: Dataset) -> ScoredOn:
        """A dataset by its name, its content and its size."""
        copies = int((data.copy_of != np.arange(len(data))).sum())
        units = int(data.units.max(initial=-1)) + 1
        return cls(data.name, data.digest, len(data), units, copies, data.scored_tokens)


class Answered(NamedTuple):
    """What a model answered, and on which data; ``units`` numbers the independent unit of each example.

    ``again`` is what the original answers to a few examples in another order of summation, and as it was: the floor of
    every distance.
    """

    answers: Any  # logits [n, classes], TokenScores, EndingScores, or what a metric's own evidence reads
    scored_on: ScoredOn
    units: np.ndarray | None = None  # None: each example is one
    again: tuple[Any, Any] | None = None  # None: not measured


class Exact(NamedTuple):
    """A number that is no estimate; None: not known of this model."""

    value: int | None


class Estimate(NamedTuple):
    """What another tool says of a model: a value, its standard error, and which examples it is about."""

    value: float
    standard_error: float
    data: str
    sha256: str
    examples: int


Reading = Answered | Exact | Estimate


@dataclass(frozen=True)
class Subject:
    """A model that evidence is collected from.

    Args:
        key: Of the model's bytes: equal keys, equal models.
        name: What messages and progress bars call it.
        make_again: Of a model whose weights were released from the store: computes them again.
        exact: Of such a model, what was counted before, by ``metric_key``.
    """

    key: str
    model: Model
    name: str
    make_again: Callable[[], Model] | None = None
    exact: Mapping[str, int | None] = field(default_factory=dict)

    def with_weights(self) -> Subject:
        """The model with its weights."""
        return self if self.make_again is None else Subject(self.key, self.make_again(), self.name)


@dataclass(frozen=True)
class Sources:
    """What collectors collect from, beside the model itself.

    Args:
        original: What metrics with ``needs_original`` compare to; None: there is none, and no such metric is scored.
        own: By a metric's label, the data that it brings or cuts anew.
        root: Folder that paths in metrics start from.
        little_memory: What can lie in a file should not lie in memory: the plan limits that.
    """

    store: Store
    progress: Progress
    task: Task
    original: Subject | None = None
    evaluate: Dataset | None = None
    train: Dataset | None = None
    own: Mapping[str, Dataset] = field(default_factory=dict)
    root: Path = field(default_factory=Path)
    little_memory: bool = False


class Evidence(ABC):
    """One kind of evidence, and its collector over one run or one check of a package."""

    of_outputs: ClassVar[str | None] = None
    """Of models with which outputs (``Task.outputs``) it can be collected; None: of all."""
    reads: ClassVar[frozenset[str]] = frozenset()
    """Roles of the plan's data that it is collected on."""
    runs: ClassVar[bool] = True
    """Whether the model is run for it."""

    def __init__(self, sources: Sources, metric: Metric) -> None:
        self.sources = sources

    @classmethod
    def for_task(cls, task: Task) -> type[Evidence]:
        """The kind that a model with this task gives."""
        return cls

    @classmethod
    def scope(cls, metric: Metric) -> str:
        """Metrics of one scope share a collector."""
        return ""

    @abstractmethod
    def reading(self, metric: Metric, model: Subject) -> Reading | None:
        """What a metric is computed from; None: nothing of this model alone."""


class CollectedEvidence(Evidence, Generic[T]):
    """Evidence that is collected once per model and kept in the store."""

    kind: ClassVar[str]
    """What the store calls it; two kinds never share an entry."""

    def __init__(self, sources: Sources, metric: Metric) -> None:
        super().__init__(sources, metric)
        self._answers: dict[str, T] = {}

    @property
    @abstractmethod
    def data(self) -> Dataset:
        """What it is collected on."""

    def inputs(self, model: Subject) -> dict[str, Any]:
        """JSON values that decide the result; versions of our code and of libraries are added by the store."""
        return {"model": model.key, "data": self.data.digest}

    @abstractmethod
    def collect(self, model: Subject, folder: Path) -> None:
        """Run the model and write its answers into an empty folder."""

    @abstractmethod
    def read(self, folder: Path) -> T:
        """Read what :meth:`collect` wrote."""

    def answers(self, model: Subject) -> T:
        """The model's answers, collected if the store does not have them."""
        if model.key not in self._answers:
            self._answers[model.key] = self.read(self.entry(model))
        return self._answers[model.key]

    def entry(self, model: Subject) -> Path:
        """The store's folder with the model's answers."""
        inputs = self.inputs(model) | {"collector": source_digest(type(self))}
        write, label = (lambda folder: self.collect(model.with_weights(), folder)), f"{self.kind} of {model.name}"
        return self.sources.store.cached(self.kind, inputs, write, lambda folder: folder, label)

    def reading(self, metric: Metric, model: Subject) -> Reading | None:
        return Answered(self.answers(model), ScoredOn.of(self.data), self.data.units, self.again(model))

    def again(self, model: Subject) -> tuple[T, T] | None:
        """The original's answers to a few examples, summed in two different orders; None: not measured."""
        return None

    def is_original(self, model: Subject) -> bool:
        """Whether it is what the others are compared to."""
        return self.sources.original is not None and self.sources.original.key == model.key


class OnEvaluationData(CollectedEvidence[T], ABC):
    """Collected on ``data.evaluate``."""

    reads = frozenset({EVALUATE})

    @property
    def data(self) -> Dataset:
        assert self.sources.evaluate is not None, "the plan was checked"
        return self.sources.evaluate


class Collectors:
    """A collector for each metric; metrics that read the same share one."""

    def __init__(self, metrics: Sequence[Metric], sources: Sources) -> None:
        collectors: dict[tuple[type[Evidence], str], Evidence] = {}
        self.metrics, self._by_label = list(metrics), {}
        for metric in metrics:
            kind = metric.evidence_of(sources.task)
            place = kind, kind.scope(metric)
            collectors[place] = collectors.get(place) or kind(sources, metric)
            self._by_label[metric.label] = collectors[place]

    def readings(self, model: Subject) -> dict[str, Reading]:
        """By a metric's label, what it is computed from; of a model that cannot run here, what needs no run."""
        runs = model.model.cannot_run() is None
        metrics = [metric for metric in self.metrics if runs or not self._by_label[metric.label].runs]
        readings = {m.label: self._by_label[m.label].reading(m, model) for m in metrics}
        return {label: reading for label, reading in readings.items() if reading is not None}
