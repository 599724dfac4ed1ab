"""From a plan document to a :class:`Plan`: read by :class:`PlanFile`, all faults at once, each with its line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pydantic import ValidationError

from squeeze.budget import ALIASES, Bound, parse_bound
from squeeze.errors import Fault, PlanError, SqueezeError, did_you_mean
from squeeze.evaluate.metrics import Metric
from squeeze.models.spec import folder_task
from squeeze.plan.document import Document, Place
from squeeze.plan.file import Judging, PlanFile
from squeeze.plan.parts import BranchPart
from squeeze.plan.plan import (
    AnyPass,
    Branch,
    Plan,
    Step,
    default_metrics,
    equivalence_margins,
    primary_metrics,
)
from squeeze.plan.section import complaints_of

T = TypeVar("T")


def parse(document: Document) -> Plan:
    """Make the plan.

    Raises:
        PlanError: every fault of its parts. Whether the parts fit together is checked later.
    """
    folder = str(document.root)
    try:
        file = PlanFile.model_validate(document.values, context=folder)
    except ValidationError as error:
        faults = [_without_kind(complaint.fault()) for complaint in complaints_of(error)]
        right = _right(document.values, faults)
        if "metrics" in right or "metrics" not in document.values:
            judging = Judging.model_validate(right, context=folder)
            faults += Judgement(judging, _metrics(judging, document)).faults
        raise PlanError(document.located(faults), document.file) from None
    judgement = Judgement(file, _metrics(file, document))
    if judgement.faults:
        raise PlanError(document.located(judgement.faults), document.file)
    return _plan(file, judgement, document)


def _without_kind(fault: Fault) -> Fault:
    """Pydantic names the kind of a model in the place; the document does not."""
    return Fault(("model", *fault.path[2:]), fault.message) if fault.path[:1] == ("model",) else fault


def _right(values: dict[str, Any], faults: list[Fault]) -> dict[str, Any]:
    """The valid ones of the keys about judging, so that further faults in them are found too."""
    right = {}
    for name in Judging.model_fields.keys() & values.keys():
        wrong = [fault.path for fault in faults if fault.path[:1] == (name,)]
        if not wrong:
            right[name] = values[name]
        elif name == "metrics" and all(len(path) > 1 for path in wrong):
            indices = {path[1] for path in wrong}
            right[name] = [item for index, item in enumerate(values[name]) if index not in indices]
    return right


def _metrics(judging: Judging, document: Document) -> tuple[Metric, ...]:
    if judging.metrics is not None:
        return judging.metrics
    model = document.values.get("model")
    if isinstance(model, dict) and "gguf" in model:
        return default_metrics("generate")
    folder = model.get("hf") if isinstance(model, dict) else None
    return default_metrics(folder_task(document.root / folder) if isinstance(folder, str) else "classify")


class Judgement:
    """Bounds, the primary metric and margins, held against the metrics that the plan measures."""

    def __init__(self, judging: Judging, metrics: tuple[Metric, ...]) -> None:
        self.metrics, self.faults = metrics, list[Fault]()
        self.primary = self._primary(judging.primary)
        known = {metric.label: metric for metric in metrics}
        bounds = [self._bound(name, text, known) for name, text in (judging.budget or {}).items()]
        self.budget = tuple(bound for bound in bounds if bound is not None)
        self.equivalence = dict(self._margins(judging.equivalence or {}))

    def _primary(self, labels: str | list[str] | None) -> tuple[str, ...] | None:
        if labels is None:
            return None
        return self._try(lambda: primary_metrics(labels, self.metrics), ("primary",))

    def _bound(self, name: str, text: Any, known: dict[str, Metric]) -> Bound | None:
        place = ("budget", name)
        metric = ALIASES.get(name, name)
        if metric not in known:
            self.faults.append(
                Fault(place, f"budget: '{name}' is not among the plan's metrics{did_you_mean(metric, known)}")
            )
            return None
        return self._try(lambda: parse_bound(known[metric], text), place)

    def _margins(self, margins: dict[str, Any]) -> Iterator[tuple[str, str]]:
        judged = primary_metrics(self.primary, self.metrics)
        for name, text in margins.items():
            margin = {name: text}
            if self._try(lambda: equivalence_margins(margin, self.metrics, judged), ("equivalence", name)) is not None:  # noqa: B023
                yield name, str(text)

    def _try(self, make: Callable[[], T], place: Place) -> T | None:
        """The result of ``make``; its error becomes a fault at this place."""
        try:
            return make()
        except SqueezeError as error:
            self.faults.append(Fault(place, str(error)))
            return None


def _plan(file: PlanFile, judgement: Judgement, document: Document) -> Plan:
    branches = [_branch(branch, ("targets", index), document) for index, branch in enumerate(file.targets or ())]
    return Plan(
        _steps(file.passes or (), ("passes",), document),
        branches,
        model=file.model.spec(),
        data={role: source for role, source in file.data or () if source is not None},
        metrics=judgement.metrics,
        budget=judgement.budget,
        primary=judgement.primary,
        equivalence=judgement.equivalence,
        seed=file.seed,
        threads=file.threads,
        memory_bytes=file.memory,
        disk_bytes=file.disk,
        strict=file.strict,
        name=_stem(document.file),
        file=document.file,
        root=document.root,
        document=document,
    )


def _branch(branch: BranchPart, place: Place, document: Document) -> Branch:
    return Branch(branch.name, branch.target, _steps(branch.passes, (*place, "passes"), document), place)


def _steps(passes: tuple[AnyPass, ...], place: Place, document: Document) -> tuple[Step, ...]:
    return tuple(Step(p, (*place, index), document.line((*place, index))) for index, p in enumerate(passes))


def _stem(file: str) -> str:
    return file.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".yaml").removesuffix(".yml") or "plan"
