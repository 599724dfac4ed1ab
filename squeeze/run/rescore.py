"""A package scored again, on data that a plan names: what ``squeeze verify --data`` does.

The plan, its data and its original are the user's own and are read here; the package is a stranger's, and its model is
run in a confined process only.
"""

from __future__ import annotations

from contextlib import ExitStack
from pickle import PicklingError
from typing import Any

import torch
from pydantic import BaseModel, ValidationError

from squeeze.errors import DataError, SqueezeError, UsageError, VerifyError, first_line
from squeeze.evaluate.evidence.base import EVALUATE, Collectors, Subject
from squeeze.plan.check import example_shapes
from squeeze.plan.plan import Plan
from squeeze.progress import Progress
from squeeze.run.claims import read_ledger
from squeeze.run.original import keep_original, read_original
from squeeze.run.rescore_child import pickled
from squeeze.run.scorable import obstacle, open_sources
from squeeze.run.stored import StoredModel
from squeeze.store import Store
from squeeze.targets import child
from squeeze.targets.confined import SCORING, Limits
from squeeze.targets.verify import Package
from squeeze.work import temporary_folder

SCORES_IN_CHILD = "squeeze.run.rescore_child:scores_in_child"


class RescoredMetric(BaseModel):
    """One score; ``claimed`` and ``tolerance`` where the ledger's is on the same data."""

    value: int | float | None
    interval: tuple[float, float] | None
    unit: str
    claimed: int | float | None = None
    tolerance: float | None = None


class Rescored(BaseModel):
    """What was scored, what could not be, and what could not be compared: by name, with its reason.

    ``outputs_differ_by`` is 0 where the golden output is equal to the last bit: then scores are too, up to rounding.
    """

    data: str | None
    examples: int | None
    same_data_as_ledger: bool
    outputs_differ_by: float
    scores: dict[str, RescoredMetric]
    not_scored: dict[str, str]
    not_compared: dict[str, str]


def rescore(
    package: Package,
    plan: Plan,
    progress: Progress | None = None,
    store: Store | None = None,
    limits: Limits = SCORING,
) -> dict[str, Any]:
    """Every metric of the plan that this package can be scored by, beside what the package's ledger says.

    Args:
        store: Where the original and its evidence lie already; None: a temporary one.
        limits: Of the confined process that runs the package's model; its time is that of one batch.

    Raises:
        DataError: the plan names no evaluation data, though its metrics need some.
        VerifyError: the ledger is none, on its very data a score is another one, or a limit was reached.
    """
    read_ledger(package)
    progress = progress or Progress()
    if "evaluate" not in plan.data and any(EVALUATE in metric.reads() for metric in plan.metrics):
        raise DataError(f"{plan.file}: names no data.evaluate to score on")
    torch.set_num_threads(plan.threads)
    with temporary_folder("verify") as folder, ExitStack() as stack:
        originals = store or Store(folder, progress)
        stack.enter_context(originals.run())  # no prune takes it while it is read
        original, reason = _original(plan, originals, progress)
        progress.say(f"scoring {package.path} by {plan.file}")
        arguments = {
            "path": str(package.path),
            "folder": str(package.folder.resolve()),
            "root": str(plan.root.resolve()),
            "plan": _pickled(plan),
            "store": str(originals.folder.resolve()),
            "original": str(original.folder.resolve()) if original else None,
            "reason": reason,
        }
        size = package.model_bytes() + (original.model.nbytes() if original else 0)
        folders = [*package.temporary(), folder]
        answer = child.call(SCORES_IN_CHILD, arguments, limits, size, str(package.path), progress, folders)
    return _checked(package, answer).model_dump(exclude_unset=True)


def _original(plan: Plan, store: Store, progress: Progress) -> tuple[StoredModel | None, str | None]:
    """The original that the plan names and what its metrics ask of it, in the store; else why there is none."""
    if not any(metric.needs_original for metric in plan.metrics):
        return None, None
    try:
        model = read_original(plan.model, plan.root, example_shapes(plan), store, plan.threads, progress)
        stored = keep_original(model, store, str(plan.root))
    except SqueezeError as error:
        return None, f"it compares to the original, which cannot be read: {error}"
    subject = Subject(stored.key, stored.model, "original")
    sources = open_sources(plan, stored.model.task, subject, store, progress)
    metrics = [metric for metric in plan.metrics if obstacle(plan, metric, stored.model, sources) is None]
    Collectors(metrics, sources).readings(subject)
    return stored, None


def _pickled(plan: Plan) -> str:
    """Model, data and metrics of the plan, for the confined process: it is the user's own, as the package is not."""
    scoring_plan = Plan(
        model=plan.model,
        data=plan.data,
        metrics=plan.metrics,
        threads=plan.threads,
        name=plan.name,
        file=plan.file,
        root=plan.root.resolve(),
    )
    try:
        return pickled(scoring_plan)
    except (PicklingError, AttributeError, TypeError) as error:
        raise UsageError(f"{plan.file}: cannot be handed to another process ({first_line(error)})") from None


def _checked(package: Package, answer: child.Answer) -> Rescored:
    """The answer as far as it is one: it comes from a process that ran a stranger's model."""
    try:
        return Rescored.model_validate(answer)
    except ValidationError as error:
        raise VerifyError(f"{package.path}: scoring gave no scores ({error.error_count()} faults)") from None
