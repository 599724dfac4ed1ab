"""Under which keys the store holds the models of a run, known before any of them is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from squeeze.data.base import Dataset
from squeeze.plan.plan import Branch, Plan, Step
from squeeze.plan.schedule import WorkItem, schedule
from squeeze.plan.step_faults import NEED_TO_ROLE
from squeeze.run.opened import CALIBRATE, Opened
from squeeze.run.packing import TARGET, artifact_inputs
from squeeze.store import Store
from squeeze.versions import content_digest, source_digest


class ModelKeys:
    """What decides each model of a plan.

    Args:
        original: Key of the original.
    """

    def __init__(self, plan: Plan, store: Store, opened: Opened, original: str) -> None:
        self.plan, self.store, self.original = plan, store, original
        self.data, self.recalibrated = opened.roles, opened.recalibrated

    def schedule(self) -> list[WorkItem[str]]:
        """Everything that the run does, by the keys of its models."""
        return schedule(self.plan, self.original, self._passed, self._built)

    def calibrations(self, step: Step) -> Sequence[Dataset | None]:
        """The samples that a pass is given, the plan's first, then others for a pass that is repeated."""
        return (self.data.get(CALIBRATE), *self.recalibrated[: step.pass_.repetitions() - 1])

    def inputs(self, step: Step, before: str, calibrate: Dataset | None) -> dict[str, Any]:
        """What decides the model after a pass, for the store's key; ``before`` is the key of the one before."""
        roles = [NEED_TO_ROLE[need] for need in sorted(step.pass_.needed()) if need in NEED_TO_ROLE]
        data = self.data | ({CALIBRATE: calibrate} if calibrate is not None else {})
        return {
            "before": before,
            "original": self.original,
            "pass": step.pass_.name,
            "options": step.pass_.once().options(),
            "data": {role: data[role].digest for role in roles},
            "files": {name: content_digest(self.plan.root / name) for name in step.pass_.reads()},
            "seed": self.plan.seed,
            "threads": self.plan.threads,
            "code": source_digest(type(step.pass_)),
        }

    def _passed(self, step: Step, before: str) -> tuple[str, ...]:
        return tuple(self.store.key("pass", self.inputs(step, before, data)) for data in self.calibrations(step))

    def _built(self, branch: Branch, before: str) -> str:
        assert branch.target is not None, "only targets are built"
        return self.store.key(TARGET, artifact_inputs(branch.target, before))
