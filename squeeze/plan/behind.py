"""What comes behind a pass in a plan: which grids it holds, and whether anything trains."""

from __future__ import annotations

from collections.abc import Iterator

from squeeze.errors import Fault
from squeeze.formats.grid_kind import GridKind
from squeeze.models.base import Model
from squeeze.passes.base import Holds
from squeeze.plan.plan import Branch, Plan, Step


def holds_behind(plan: Plan, step: Step, branch: Branch | None, model: Model | None) -> Holds:
    """Whether every pass and target behind a step can hold a grid: the first reason why one cannot."""
    lines = _lines_from(plan, step, branch)

    def holds(kind: GridKind) -> str | None:
        for steps, end in lines:
            grid = {"a weight": kind}
            reasons = [reason for one in steps for reason in one.pass_.grid_faults(grid, model)]
            if end is not None and end.target is not None:
                reasons += [f"target {end.name}: {reason}" for reason in end.target.grid_faults(grid)]
            if reasons:
                return reasons[0].replace("a weight: ", "")
        return None

    return holds


def untrained(plan: Plan) -> Iterator[Fault]:
    """A warning for each pass that cuts a model which nothing trains afterwards."""
    for branch, step in plan.every_step():
        if "fewer_parameters" not in step.pass_.promises:
            continue
        bare = [end for steps, end in _lines_from(plan, step, branch) if not any(one.pass_.trains for one in steps)]
        if bare:
            names = ", ".join(end.name for end in bare if end is not None)
            where = f" on the way to {names}" if branch is None and names else ""
            cure = "finetune or distill behind it would"
            yield Fault(step.place, f"{step.pass_.name}: nothing trains what is left{where}; {cure}")


def _lines_from(plan: Plan, step: Step, branch: Branch | None) -> list[tuple[tuple[Step, ...], Branch | None]]:
    """The passes behind a step on each way to an end of the plan, and that end; None: the end of the trunk."""
    if branch is not None:
        return [(branch.steps[branch.steps.index(step) + 1 :], branch)]
    rest = plan.steps[plan.steps.index(step) + 1 :]
    return [((*rest, *end.steps), end) for end in plan.branches] or [(rest, None)]
