"""All data of a run, opened once; no pass sees the evaluation data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from squeeze.data.base import Dataset
from squeeze.data.documents import Documents
from squeeze.data.overlap import overlap_warnings, refuse_overlap, repetition_warnings, without_overlap
from squeeze.data.recut import recut
from squeeze.data.text import TextSource
from squeeze.data.token_dataset import TokenDataset
from squeeze.errors import Fault, PlanError, SqueezeError, UsageError, did_you_mean
from squeeze.evaluate.metrics import Metric
from squeeze.models.base import Model
from squeeze.models.language.decoder import decoder_of
from squeeze.plan.plan import ROLES, Plan
from squeeze.run.lender import Lender

CALIBRATE, EVALUATE = "calibrate", "evaluate"


@dataclass
class Opened:
    """What a run reads.

    Args:
        roles: By role.
        own: By a metric's label, the data that it brings or cuts anew.
        documents: By a metric's label, what another tool asks of the model.
        recalibrated: Other samples of the calibration data, for passes that are repeated with them.
        warnings: What looks like a copy, and what could not be compared: lines for the report.
    """

    roles: dict[str, Dataset] = field(default_factory=dict)
    own: dict[str, Dataset] = field(default_factory=dict)
    documents: dict[str, Documents] = field(default_factory=dict)
    recalibrated: list[Dataset] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def require_kinds(plan: object, model: object, data: Mapping[str, object] | None) -> None:
    """Arguments of the wrong kind would fail late, or stand in for nothing.

    Raises:
        UsageError: one is not of its kind.
    """
    if not isinstance(plan, Plan):
        raise UsageError(f"plan: {plan!r} is no plan; load('plan.yaml') or Plan([...]) would be one")
    if model is not None and not isinstance(model, Model):
        raise UsageError(f"model: {model!r} is no model; TorchModel(module, source, inputs) would be one")
    for role, dataset in (data or {}).items():
        if role not in ROLES:
            raise UsageError(f"data has no '{role}'{did_you_mean(role, ROLES)}")
        if not isinstance(dataset, Dataset):
            raise UsageError(f"data.{role}: {dataset!r} is no dataset; DigitsData(...).open('.') would be one")


def open_all(plan: Plan, brought: Mapping[str, Dataset], lender: Lender | None = None) -> Opened:
    """Open what the plan names; ``brought`` stands in for some of it, by role.

    Args:
        lender: What asks the original is asked by it and kept in its store; None: by one without a store.

    Raises:
        PlanError: it cannot be read, or evaluation data is also calibration or training data.
    """
    opened, lender = Opened(dict(brought)), lender or Lender(plan)
    for role in ROLES:
        if role in plan.data and role not in brought:
            with faults_at(plan, "data", role):
                opened.roles[role] = lender.open(role)
    for index, metric in enumerate(plan.metrics):
        with faults_at(plan, "metrics", index):
            if (data := lender.own.get(metric.label)) is None:
                data = own_data(plan, metric, opened.roles.get(EVALUATE))
            if data is not None:
                opened.own[metric.label] = data
    _read_documents(plan, opened)
    for role in opened.roles:
        if role != EVALUATE:
            opened.roles[role] = _unseen(plan, role, opened.roles[role], opened, drop=role not in brought)
    for number in range(1, max((step.pass_.repetitions() for _, step in plan.every_step()), default=1)):
        again = lender.open(CALIBRATE, number)
        opened.recalibrated.append(_unseen(plan, CALIBRATE, again, opened, drop=True))
    opened.warnings += _warnings(opened)
    return opened


def own_data(plan: Plan, metric: Metric, evaluate: Dataset | None) -> Dataset | None:
    """What a metric is scored on, where that is not the plan's evaluation data as it is."""
    source = metric.own_data()
    if source is not None:
        return plan.open_own(source)
    return None if evaluate is None else metric.cut(evaluate)


def _read_documents(plan: Plan, opened: Opened) -> None:
    """What other tools ask of the model, as far as it lies on this machine and there is text to compare it with."""
    others = [f"data.{role}" for role, data in opened.roles.items() if role != EVALUATE and data.words is not None]
    for metric in plan.metrics if others else []:
        try:
            if (documents := metric.documents(plan.root)) is not None:
                opened.documents[metric.label] = documents
        except SqueezeError as error:
            opened.warnings.append(f"{metric.label}: not compared with {' and '.join(others)}: {error}")


def _warnings(opened: Opened) -> Iterator[str]:
    others = {role: data for role, data in opened.roles.items() if role != EVALUATE}
    if EVALUATE in opened.roles:
        yield from overlap_warnings(opened.roles[EVALUATE], others)
        yield from repetition_warnings(opened.roles[EVALUATE])
    for label, data in (opened.own | opened.documents).items():
        yield from overlap_warnings(data, others, label)
    for label, data in opened.own.items():
        yield from repetition_warnings(data, label)


def _unseen(plan: Plan, role: str, data: Dataset, opened: Opened, drop: bool) -> Dataset:
    """Data of a role that shares nothing with what is scored on; what it shares is dropped if the plan says so."""
    source = plan.data.get(role)
    scored = {f"data.{EVALUATE}": opened.roles[EVALUATE]} if EVALUATE in opened.roles else {}
    for where, texts in (scored | opened.own | opened.documents).items():
        with faults_at(plan, *(("data", EVALUATE) if where in scored else ("metrics",))):
            if drop and isinstance(source, TextSource) and source.drop_overlap:
                data = without_overlap(data, texts)
            refuse_overlap(texts, {role: data}, where)
    return data


def in_tokens_of(model: Model, data: Dataset, original: Model) -> Dataset:
    """Data as a pass gets it: text that the original's tokenizer cut, cut anew where the model has other tokens."""
    if not isinstance(data, TokenDataset) or model.vocabulary == original.vocabulary:
        return data
    return recut(data, decoder_of(original), decoder_of(model))


@contextmanager
def faults_at(plan: Plan, *place: str | int) -> Iterator[None]:
    """A complaint from in here is a fault of the plan at that place."""
    try:
        yield
    except SqueezeError as error:
        raise PlanError(plan.located([Fault(place, str(error))]), plan.file) from error
