"""All data of a run, opened once: what is scored on has been seen by no pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from squeeze.data.base import Dataset
from squeeze.data.overlap import refuse_overlap, without_overlap
from squeeze.data.text import TextData
from squeeze.errors import Fault, PlanError, SqueezeError
from squeeze.evaluate.metrics import Metric
from squeeze.plan.plan import ROLES, Plan

CALIBRATE, EVALUATE = "calibrate", "evaluate"


@dataclass
class Opened:
    """What a run reads.

    Args:
        roles: By role.
        own: By a metric's label, the data that it brings or cuts anew.
        recalibrated: Other samples of the calibration data, for passes that are repeated with them.
    """

    roles: dict[str, Dataset] = field(default_factory=dict)
    own: dict[str, Dataset] = field(default_factory=dict)
    recalibrated: list[Dataset] = field(default_factory=list)


def open_all(plan: Plan, given: Mapping[str, Dataset]) -> Opened:
    """Open what the plan names; ``given`` stands in for some of it, by role.

    Raises:
        PlanError: it cannot be read, or evaluation data is also calibration or training data.
    """
    opened = Opened(dict(given))
    for role in ROLES:
        if role in plan.data and role not in given:
            with told_at(plan, "data", role):
                opened.roles[role] = plan.open_data(role)
    for index, metric in enumerate(plan.metrics):
        with told_at(plan, "metrics", index):
            if (data := own_data(plan, metric, opened.roles.get(EVALUATE))) is not None:
                opened.own[metric.label] = data
    for role in opened.roles:
        if role != EVALUATE:
            opened.roles[role] = _unseen(plan, role, opened.roles[role], opened, drop=role not in given)
    for number in range(1, max((step.deed.repetitions() for _, step in plan.every_step()), default=1)):
        again = plan.open_data(CALIBRATE, number)
        opened.recalibrated.append(_unseen(plan, CALIBRATE, again, opened, drop=True))
    return opened


def own_data(plan: Plan, metric: Metric, evaluate: Dataset | None) -> Dataset | None:
    """What a metric is scored on, where that is not the plan's evaluation data as it is."""
    source = metric.own_data()
    if source is not None:
        return plan.open_own(source)
    return None if evaluate is None else metric.cut(evaluate)


def _unseen(plan: Plan, role: str, data: Dataset, opened: Opened, drop: bool) -> Dataset:
    """Data of a role that shares nothing with what is scored on; what it shares is dropped if the plan says so."""
    source = plan.data.get(role)
    scored = {f"data.{EVALUATE}": opened.roles[EVALUATE]} if EVALUATE in opened.roles else {}
    for where, texts in (scored | opened.own).items():
        with told_at(plan, *(("data", EVALUATE) if where in scored else ("metrics",))):
            if drop and isinstance(source, TextData) and source.drop_overlap:
                data = without_overlap(data, texts)
            refuse_overlap(texts, {role: data}, where)
    return data


@contextmanager
def told_at(plan: Plan, *place: str | int) -> Iterator[None]:
    """A complaint from in here is a fault of the plan at that place."""
    try:
        yield
    except SqueezeError as error:
        raise PlanError(plan.located([Fault(place, str(error))]), plan.file) from error
