"""What a plan may lack: training behind a cut, groups that what follows holds, integers for its largest tables."""

from __future__ import annotations

from collections.abc import Iterator

from squeeze.errors import Fault
from squeeze.formats.grid_kind import GridKind
from squeeze.models.base import Model
from squeeze.models.language.language_model import in_shards
from squeeze.passes.base import Holds, Preview
from squeeze.plan.plan import AnyPass, Branch, Plan, Step

LARGE_SHARE = 0.25  # share of a model's bytes in token tables that is worth a warning


def holds_behind(plan: Plan, step: Step, branch: Branch | None, model: Model | None) -> Holds:
    """Whether every pass and target behind a step can hold a grid: the first reason why one cannot."""
    lines = _lines_from(plan, step, branch)

    def holds(kind: GridKind) -> str | None:
        for steps, end in lines:
            grid = {"a weight": kind}
            reasons = [reason for one in steps for reason in one.pass_.grid_faults(grid, model)]
            if end is not None and end.target is not None:
                reasons += [f"target {end.name}: {reason}" for reason in end.target.grid_faults(grid, model)]
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


def float_tables(pass_: AnyPass, model: Model, preview: Preview) -> Iterator[str]:
    """A warning where a quantizer leaves most of the bytes in tables of tokens that it could take as well."""
    if "quantized" not in pass_.leaves or getattr(pass_, "embeddings", 0) is not None or not model.blocks:
        return
    language = in_shards(model)
    ends = {name: language.module.get_parameter(name).nbytes for name in language.ends if name not in preview.grid}
    share = sum(ends.values()) / preview.nbytes
    if share >= LARGE_SHARE:
        what = f"{100 * share:.0f} % of the bytes that it leaves are {' and '.join(ends)}, kept in float"
        yield f"{pass_.name}: {what}; embeddings: 8 would make them smaller"


def _lines_from(plan: Plan, step: Step, branch: Branch | None) -> list[tuple[tuple[Step, ...], Branch | None]]:
    """The passes behind a step on each way to an end of the plan, and that end; None: the end of the trunk."""
    if branch is not None:
        return [(branch.steps[branch.steps.index(step) + 1 :], branch)]
    rest = plan.steps[plan.steps.index(step) + 1 :]
    return [((*rest, *end.steps), end) for end in plan.branches] or [(rest, None)]
