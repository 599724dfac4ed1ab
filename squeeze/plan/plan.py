"""A plan: which model, which data, which passes in which order, for which targets, within which budget.

The parts are typed and closed. Reading them from a file is ``squeeze.plan.parse``; judging whether they fit together
is ``squeeze.plan.check``; carrying them out is ``squeeze.run``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeeze.budget import Bound, parse_bound
from squeeze.data.base import Dataset
from squeeze.data.sources import DataSource
from squeeze.errors import Fault
from squeeze.evaluate.metrics import Flips, Kl, Latency, Loss, Macs, Metric, Parameters, SizeBytes, Top1
from squeeze.models.base import Model
from squeeze.models.spec import ModelSpec
from squeeze.passes.base import Pass
from squeeze.plan.document import Document, Place
from squeeze.targets.base import Target

if TYPE_CHECKING:
    from squeeze.run import Run

ROLES = ("evaluate", "calibrate", "train")
DEFAULT_METRICS: tuple[Metric, ...] = (Top1(), Loss(), Kl(), Flips(), SizeBytes(), Parameters(), Macs(), Latency())
AnyPass = Pass[Any, Any]


@dataclass(frozen=True)
class Step:
    """One pass and where it stands in the plan."""

    deed: AnyPass
    place: Place
    line: int | None = None

    def where(self) -> str:
        """``passes.1 (line 12)``, for messages of a run."""
        dotted = ".".join(map(str, self.place))
        return f"{dotted} (line {self.line})" if self.line else dotted


@dataclass(frozen=True)
class Branch:
    """A target and the passes that lead to it from the end of the trunk."""

    name: str
    target: Target[Any]
    steps: tuple[Step, ...]
    place: Place = ()


@dataclass(frozen=True)
class Plan:
    """Everything a run needs to know. Make one in Python with :meth:`of`, or read one with :meth:`load`."""

    steps: tuple[Step, ...]
    branches: tuple[Branch, ...] = ()
    model: ModelSpec | None = None
    data: Mapping[str, DataSource] = field(default_factory=dict)
    metrics: tuple[Metric, ...] = DEFAULT_METRICS
    budget: tuple[Bound, ...] = ()
    seed: int = 0
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    memory_bytes: int | None = None
    strict: bool = False
    name: str = "plan"
    file: str = "plan"
    root: Path = field(default_factory=Path.cwd)
    document: Document | None = None  # the file that it was read from

    @classmethod
    def of(
        cls,
        passes: Sequence[AnyPass],
        targets: Sequence[Target[Any]] | Mapping[str, tuple[Target[Any], Sequence[AnyPass]]] = (),
        budget: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Plan:
        """A plan in Python.

        Args:
            passes: The trunk, in order.
            targets: Targets at its end, or name to (target, its own tail of passes).
            budget: Metric name to bound, ``{"size": "<= 30 %"}``.
            options: ``metrics``, ``seed``, ``threads``, ``strict``, ``name``.
        """
        steps = tuple(Step(deed, ("passes", index)) for index, deed in enumerate(passes))
        tails = targets.items() if isinstance(targets, Mapping) else [(t.name, (t, ())) for t in targets]
        branches = tuple(_branch(index, name, *tail) for index, (name, tail) in enumerate(tails))
        metrics = options.pop("metrics", DEFAULT_METRICS)
        better = {metric.name: metric.higher_is_better for metric in metrics}
        bounds = tuple(parse_bound(name, text, better.get(name, False)) for name, text in (budget or {}).items())
        return cls(steps, branches, metrics=tuple(metrics), budget=bounds, **options)

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = (), variables: Mapping[str, str] | None = None) -> Plan:
        """Read a plan file.

        Raises:
            PlanError: with every fault of the file, each with its line.
        """
        from squeeze.plan.document import read_document
        from squeeze.plan.parse import parse

        return parse(read_document(Path(path), tuple(overrides), variables))

    def check(self) -> list[Fault]:
        """Every fault that can be found without loading weights."""
        from squeeze.plan.check import check

        return self.located(check(self).faults)

    def run(
        self,
        model: Model | None = None,
        evaluate: Dataset | None = None,
        calibrate: Dataset | None = None,
        train: Dataset | None = None,
        **options: Any,
    ) -> Run:
        """Carry the plan out. Model and data given here stand in for those that the plan names.

        ``options`` are those of :func:`squeeze.run.run`: ``out``, ``store``, ``progress``.
        """
        from squeeze.run import run

        given = {"evaluate": evaluate, "calibrate": calibrate, "train": train}
        return run(self, model=model, data={role: data for role, data in given.items() if data is not None}, **options)

    def located(self, faults: list[Fault]) -> list[Fault]:
        """The faults with their lines in the plan file, if there is one."""
        return self.document.located(faults) if self.document else faults

    def every_step(self) -> Iterator[tuple[Branch | None, Step]]:
        """All steps: the trunk's, then each branch's own."""
        yield from ((None, step) for step in self.steps)
        yield from ((branch, step) for branch in self.branches for step in branch.steps)

    def resolved(self) -> dict[str, Any]:
        """The plan as JSON values, every option spelled out; variables keep their names: no path of a machine."""
        raw = self.document.raw if self.document else {}
        values: dict[str, Any] = {name: raw[name] for name in ("model", "data", "vars") if name in raw}
        values["metrics"] = [{metric.name: metric.model_dump(mode="json")} for metric in self.metrics]
        values["budget"] = {bound.metric: bound.written for bound in self.budget}
        values["passes"] = [_spelled(step) for step in self.steps]
        values["targets"] = [_spelled_branch(branch) for branch in self.branches]
        return values | {"seed": self.seed, "threads": self.threads, "strict": self.strict}


def _branch(index: int, name: str, target: Target[Any], passes: Sequence[AnyPass]) -> Branch:
    place: Place = ("targets", index)
    return Branch(name, target, tuple(Step(deed, (*place, "passes", i)) for i, deed in enumerate(passes)), place)


def _spelled(step: Step) -> dict[str, Any]:
    return {"pass": step.deed.name, **step.deed.options()}


def _spelled_branch(branch: Branch) -> dict[str, Any]:
    options = branch.target.model_dump(mode="json")
    passes = [_spelled(step) for step in branch.steps]
    return {"target": branch.target.name, "name": branch.name, **options, "passes": passes}
