"""A plan: which model, which data, which passes in which order, for which targets, within which budget.

The parts are typed and closed. Reading them from a file, judging whether they fit together and carrying
them out are ``squeeze.load``, ``check`` and ``compress``, of which a plan knows nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from squeeze import registry
from squeeze.budget import ALIASES, Bound, parse_bound, parse_margin
from squeeze.comparison import Margin
from squeeze.data.base import Dataset
from squeeze.data.sources import DataSource
from squeeze.errors import Fault, UsageError, did_you_mean
from squeeze.evaluate.counts import Macs, Parameters, SizeBytes
from squeeze.evaluate.metrics import EstimateMetric, ExampleMetric, Flips, Kl, Latency, Loss, Metric, Top1
from squeeze.models.base import Model
from squeeze.models.spec import ModelSpec
from squeeze.models.tasks.base import task_named
from squeeze.passes.base import Pass
from squeeze.plan.document import Document, Place
from squeeze.targets.base import Target

ROLES = ("evaluate", "calibrate", "train")
DEFAULT_METRICS: tuple[Metric, ...] = (Top1(), Loss(), Kl(), Flips(), SizeBytes(), Parameters(), Macs(), Latency())
AnyPass = Pass[Any, Any]
Tail = tuple[Target[Any], Sequence["AnyPass | Step"]]
Targets = Sequence["Target[Any] | Branch"] | Mapping[str, Tail]


@dataclass(frozen=True)
class Step:
    """One pass and where it stands in the plan."""

    pass_: AnyPass
    place: Place
    line: int | None = None

    def where(self) -> str:
        """``passes.1 (line 12)``, for messages of a run."""
        dotted = ".".join(map(str, self.place))
        return f"{dotted} (line {self.line})" if self.line else dotted


@dataclass(frozen=True)
class Branch:
    """A target and the passes that lead to it from the end of the trunk; without a target it is only measured."""

    name: str
    target: Target[Any] | None
    steps: tuple[Step, ...]
    place: Place = ()


@dataclass(frozen=True, init=False)
class Plan:
    """Everything a run needs to know: ``Plan([PruneChannels(ratio=0.5), ExportOnnx()], targets=[Cpu()])``.

    Args:
        passes: The trunk, in order.
        targets: What to pack at its end; a mapping gives names, and each target its own tail of passes:
            ``{"phone": (Mobile(), [QuantizeStatic()])}``.
        model: Where the original is; may also be given to ``squeeze.compress``.
        data: ``evaluate``, ``calibrate``, ``train``: where examples come from; may be given there, too.
        metrics: What each row measures.
        budget: Metric name to bound, ``{"size": "<= 30 %"}``, against the original.
        primary: The metric whose changes are judged, or several; None: the first that can be.
        equivalence: Metric name to the change that is as good as none, ``{"top1": "0.5 points"}``.
        seed: Where all randomness comes from.
        threads: Processor threads; part of what decides the bytes of a result.
        memory_bytes: Peak that the run must stay under.
        disk_bytes: The most that the store may hold at once; models that nothing needs any more are released.
        strict: A bound that is not proven counts as broken.
        name: What packages are called.
        file: How messages name the plan.
        root: Folder that relative paths start from.
        document: The file that it was read from.
    """

    steps: tuple[Step, ...]
    branches: tuple[Branch, ...]
    model: ModelSpec | None
    data: Mapping[str, DataSource]
    metrics: tuple[Metric, ...]
    budget: tuple[Bound, ...]
    primary: tuple[str, ...]
    equivalence: Mapping[str, Margin]
    seed: int
    threads: int
    memory_bytes: int | None
    disk_bytes: int | None
    strict: bool
    name: str
    file: str
    root: Path
    document: Document | None

    def __init__(
        self,
        passes: Sequence[AnyPass | Step] = (),
        targets: Targets = (),
        *,
        model: ModelSpec | None = None,
        data: Mapping[str, DataSource] | None = None,
        metrics: Sequence[Metric] = DEFAULT_METRICS,
        budget: Mapping[str, str] | Sequence[Bound] = (),
        primary: str | Sequence[str] | None = None,
        equivalence: Mapping[str, str] | None = None,
        seed: int = 0,
        threads: int | None = None,
        memory_bytes: int | None = None,
        disk_bytes: int | None = None,
        strict: bool = False,
        name: str = "plan",
        file: str = "plan",
        root: Path | str | None = None,
        document: Document | None = None,
    ) -> None:
        judged = primary_metrics(primary, metrics)
        limits = {"memory_bytes": memory_bytes, "disk_bytes": disk_bytes}
        plain = {"model": model, "seed": seed, "strict": strict} | limits
        source = {"name": name, "file": file, "root": Path(root) if root else Path.cwd(), "document": document}
        self.__dict__.update(  # frozen: nobody else sets a field
            plain | source,
            steps=_steps(passes, ("passes",)),
            branches=_branches(targets),
            data=dict(data or {}),
            metrics=tuple(metrics),
            budget=_bounds(budget, metrics),
            primary=judged,
            equivalence=equivalence_margins(equivalence or {}, metrics, judged),
            threads=threads or os.cpu_count() or 1,
        )

    def settled(self, model: Model) -> Plan:
        """The same plan with the options filled in that it leaves to the original's task."""
        plan = copy(self)
        branches = tuple(replace(branch, steps=_settled(branch.steps, model)) for branch in self.branches)
        object.__setattr__(plan, "steps", _settled(self.steps, model))
        object.__setattr__(plan, "branches", branches)
        return plan

    def located(self, faults: list[Fault]) -> list[Fault]:
        """The faults with their lines in the plan file, if there is one."""
        return self.document.located(faults) if self.document else faults

    def open_data(self, role: str, number: int = 0) -> Dataset:
        """Read the data of a role; text is cut by the tokenizer of the plan's own model.

        Args:
            number: 0 for the samples that the plan names, 1 and on for others of the same source.
        """
        return self.source(role, number).open(self.root, self.model_folder())

    def source(self, role: str, number: int = 0) -> DataSource:
        """Where the data of a role comes from; ``number`` as in :meth:`open_data`."""
        source = self.data[role]
        return source.model_copy(update={"seed": source.seed + number})

    def open_own(self, source: DataSource) -> Dataset:
        """Read the data that a metric brings; text is cut by the tokenizer of the plan's own model."""
        return source.open(self.root, self.model_folder())

    def model_folder(self) -> Path | None:
        """Where config and tokenizer of the plan's model are; None: it has no such folder."""
        return self.model.folder(self.root) if self.model is not None else None

    def every_step(self) -> Iterator[tuple[Branch | None, Step]]:
        """All steps: the trunk's, then each branch's own."""
        yield from ((None, step) for step in self.steps)
        yield from ((branch, step) for branch in self.branches for step in branch.steps)

    def resolved(self) -> dict[str, Any]:
        """The plan as JSON values, every option spelled out; variables keep their names: no path of a machine."""
        raw = self.document.raw if self.document else {}
        values: dict[str, Any] = {name: raw[name] for name in ("model", "data", "vars") if name in raw}
        values["metrics"] = [self._spelled_metric(index, metric) for index, metric in enumerate(self.metrics)]
        values["budget"] = {bound.metric: bound.written for bound in self.budget}
        values["primary"] = list(self.primary)
        values["equivalence"] = {name: margin.written for name, margin in self.equivalence.items()}
        values["passes"] = [_spelled(step) for step in self.steps]
        values["targets"] = [_spelled_branch(branch) for branch in self.branches]
        return values | {"seed": self.seed, "threads": self.threads, "strict": self.strict}

    def _spelled_metric(self, index: int, metric: Metric) -> dict[str, Any]:
        raw = (self.document.raw.get("metrics") or []) if self.document else []
        written = raw[index].get(metric.name) if index < len(raw) and isinstance(raw[index], dict) else None
        return {metric.name: metric.model_dump(mode="json") | (written or {})}


def _steps(passes: Sequence[AnyPass | Step], place: Place) -> tuple[Step, ...]:
    for index, pass_ in enumerate(passes):
        if not isinstance(pass_, Pass | Step):
            raise UsageError(f"{'.'.join(place)}.{index}: {pass_!r} is no pass; PruneChannels(ratio=0.5) would be one")
    return tuple(p if isinstance(p, Step) else Step(p, (*place, index)) for index, p in enumerate(passes))


def default_metrics(task: str) -> tuple[Metric, ...]:
    """What a plan that names no metrics measures of models with that task."""
    return tuple(registry.load("metrics", name)() for name in task_named(task).metrics)


def _settled(steps: tuple[Step, ...], model: Model) -> tuple[Step, ...]:
    return tuple(replace(step, pass_=step.pass_.settled(model)) for step in steps)


def _branches(targets: Targets) -> tuple[Branch, ...]:
    if isinstance(targets, Mapping):
        return tuple(_branch(index, name, tail) for index, (name, tail) in enumerate(targets.items()))
    return tuple(t if isinstance(t, Branch) else _branch(index, t.name, (t, ())) for index, t in enumerate(targets))


def _branch(index: int, name: str, tail: Tail) -> Branch:
    place: Place = ("targets", index)
    return Branch(name, tail[0], _steps(tail[1], (*place, "passes")), place)


def _bounds(budget: Mapping[str, str] | Sequence[Bound], metrics: Sequence[Metric]) -> tuple[Bound, ...]:
    if not isinstance(budget, Mapping):
        return tuple(budget)
    known = {metric.label: metric for metric in metrics}
    return tuple(parse_bound(_metric_of(known, name, "budget"), text) for name, text in budget.items())


def primary_metrics(primary: str | Sequence[str] | None, metrics: Sequence[Metric]) -> tuple[str, ...]:
    """Labels of the metrics that are judged: those named, or the first that can be.

    Raises:
        UsageError: one is not measured, or cannot be judged.
    """
    judged = {metric.label: metric for metric in metrics if _can_be_judged(metric)}
    if primary is None:
        return tuple(judged)[:1]
    names = [primary] if isinstance(primary, str) else list(primary)
    known = {metric.label: metric for metric in metrics}
    for name in names:
        if _metric_of(known, name, "primary").label not in judged:
            cure = f"; {' or '.join(judged)} would do" if judged else ""
            raise UsageError(f"primary: '{name}' has no verdict that rests on chance{cure}")
    return tuple(dict.fromkeys(ALIASES.get(name, name) for name in names))


def _can_be_judged(metric: Metric) -> bool:
    return isinstance(metric, ExampleMetric | EstimateMetric) and not metric.distance


def equivalence_margins(
    margins: Mapping[str, str], metrics: Sequence[Metric], primary: Sequence[str]
) -> dict[str, Margin]:
    """Margins of the metrics that are judged.

    Raises:
        UsageError: one is of another metric, or cannot be read.
    """
    known = {metric.label: metric for metric in metrics}
    for name in margins:
        if _metric_of(known, name, "equivalence").label not in primary:
            raise UsageError(f"equivalence: '{name}' is not judged; primary: {name} would judge it")
    return {name: parse_margin(known[name], text) for name, text in margins.items()}


def _metric_of(known: Mapping[str, Metric], name: str, what: str) -> Metric:
    label = ALIASES.get(name, name)
    if label not in known:
        raise UsageError(f"{what}: '{name}' is not among the plan's metrics{did_you_mean(name, known)}")
    return known[label]


def _spelled(step: Step) -> dict[str, Any]:
    return {"pass": step.pass_.name, **step.pass_.options()}


def _spelled_branch(branch: Branch) -> dict[str, Any]:
    target = {"target": branch.target.name, **branch.target.options()} if branch.target else {}
    return {"name": branch.name, **target, "passes": [_spelled(step) for step in branch.steps]}
