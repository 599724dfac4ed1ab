"""The Python face: ``load`` a plan, ``check`` it, ``compress`` by it.

A plan is data and knows no run; what is done with one stands here. The third verb is the field's: ``run`` is the name
of the folder that carries a plan out.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from squeeze.data.base import Dataset
from squeeze.errors import Fault, UsageError, did_you_mean
from squeeze.models.base import Model
from squeeze.plan.check import check as check_plan
from squeeze.plan.document import read_document
from squeeze.plan.parse import parse
from squeeze.plan.plan import ROLES
from squeeze.plan.plan import Plan as PlanData
from squeeze.progress import Progress
from squeeze.run.result import Run
from squeeze.run.straight import run
from squeeze.store import Store


def load(path: str | Path, overrides: Sequence[str] = (), variables: Mapping[str, str] | None = None) -> PlanData:
    """Read a plan file.

    Args:
        path: The YAML file.
        overrides: ``passes.0.ratio=0.5``, as ``--set`` gives them.
        variables: Values of ``${names}``; they win over the plan's ``vars:`` and the environment.

    Raises:
        PlanError: with every fault of the file, each with its line.
    """
    return parse(read_document(Path(path), tuple(overrides), variables))


def check(plan: PlanData, *, model: Model | None = None, data: Mapping[str, Dataset] | None = None) -> list[Fault]:
    """Every fault that can be found without loading weights; none: the plan can run.

    Args:
        model, data: As :func:`compress` will be given them.

    Raises:
        UsageError: an argument is not of its kind.
    """
    _require(plan, model, data)
    return plan.located(check_plan(plan, frozenset(data or {}), model).faults)


def compress(
    plan: PlanData,
    *,
    model: Model | None = None,
    data: Mapping[str, Dataset] | None = None,
    out: Path | str | None = None,
    store: Store | Path | str | None = None,
    progress: Progress | None = None,
) -> Run:
    """Carry a plan out: every pass scored, every target packed and verified.

    Args:
        model, data: Stand in for what the plan names; ``data`` by role: evaluate, calibrate, train.
        out: Folder for packages; None: nothing is packed.
        store: Where finished passes lie, so that a run goes on where it stopped; None: ``.squeeze/store``.
        progress: Where to show how far along it is; None: nowhere.

    Raises:
        UsageError: an argument is not of its kind.
        PlanError: the plan is wrong, with every fault; nothing has run.
        RunFailed: a pass failed; the error holds the rows before it, the store what was finished.
    """
    _require(plan, model, data)
    return run(plan, model=model, data=data, out=out, store=store, progress=progress)


def _require(plan: object, model: object, data: Mapping[str, object] | None) -> None:
    """Arguments of the wrong kind would fail late, or stand in for nothing."""
    if not isinstance(plan, PlanData):
        raise UsageError(f"plan: {plan!r} is no plan; load('plan.yaml') or Plan([...]) would be one")
    if model is not None and not isinstance(model, Model):
        raise UsageError(f"model: {model!r} is no model; TorchModel(module, source, inputs) would be one")
    for role, dataset in (data or {}).items():
        if role not in ROLES:
            raise UsageError(f"data has no '{role}'{did_you_mean(role, ROLES)}")
        if not isinstance(dataset, Dataset):
            raise UsageError(f"data.{role}: {dataset!r} is no dataset; DigitsData(...).open('.') would be one")


class Plan(PlanData):
    """:class:`squeeze.plan.plan.Plan`, with the methods of the version before: each says what takes its place."""

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = (), variables: Mapping[str, str] | None = None) -> Plan:
        """``squeeze.load``."""
        _say_instead("Plan.load(path)", "squeeze.load(path)")
        plan = cls.__new__(cls)
        plan.__dict__.update(load(path, overrides, variables).__dict__)
        return plan

    def check(self) -> list[Fault]:
        """``squeeze.check``."""
        _say_instead("plan.check()", "squeeze.check(plan)")
        return check(self)

    def run(
        self,
        model: Model | None = None,
        evaluate: Dataset | None = None,
        calibrate: Dataset | None = None,
        train: Dataset | None = None,
        **options: Any,
    ) -> Run:
        """``squeeze.compress``."""
        _say_instead("plan.run(...)", "squeeze.compress(plan, model=..., data={'evaluate': ...}, ...)")
        given = {"evaluate": evaluate, "calibrate": calibrate, "train": train}
        data = {role: dataset for role, dataset in given.items() if dataset is not None}
        return compress(self, model=model, data=data, **options)


def _say_instead(old: str, new: str) -> None:
    warnings.warn(f"{old} is now {new}; the old way ends with the next version", FutureWarning, stacklevel=3)
