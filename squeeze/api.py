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
from squeeze.errors import Fault
from squeeze.models.base import Model
from squeeze.plan.check import check as check_plan
from squeeze.plan.document import read_document
from squeeze.plan.parse import parse
from squeeze.plan.plan import Plan as PlanData
from squeeze.run.opened import require_kinds
from squeeze.run.result import Run
from squeeze.run.straight import run


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
    require_kinds(plan, model, data)
    return plan.located(check_plan(plan, frozenset(data or {}), model).faults)


compress = run


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
        datasets = {"evaluate": evaluate, "calibrate": calibrate, "train": train}
        data = {role: dataset for role, dataset in datasets.items() if dataset is not None}
        return compress(self, model=model, data=data, **options)


def _say_instead(old: str, new: str) -> None:
    warnings.warn(f"{old} is now {new}; the old way ends with the next version", FutureWarning, stacklevel=3)
