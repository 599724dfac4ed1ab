"""Whether one step fits the point of a plan at which it stands: the model there, the data, what is installed."""

from __future__ import annotations

from collections.abc import Iterator

from squeeze.plan.behind import holds_behind
from squeeze.plan.extras import absent
from squeeze.plan.plan import Branch, Plan, Step
from squeeze.plan.state import State, misfit_of

NEED_TO_ROLE = {"calibration": "calibrate", "train": "train"}


def step_faults(plan: Plan, step: Step, branch: Branch | None, state: State, roles: frozenset[str]) -> Iterator[str]:
    """Why a step cannot be done at this point of the plan."""
    pass_ = step.pass_
    if message := misfit_of(pass_, state):
        yield message
        return  # further messages would be meaningless for a model that the pass does not take
    for mark in sorted(pass_.refused() & state.marks.keys()):
        other = state.marks[mark]
        if other is None:
            yield f"{pass_.name} takes a model whose weights are floats; they are {mark} in the plan's model already"
            continue
        at = f" (line {other.line})" if other.line else ""
        yield f"{pass_.name} must come before {other.pass_.name}{at}, which leaves the weights {mark}"
    for need in sorted(pass_.needed()):
        role = NEED_TO_ROLE.get(need)
        if role and role not in plan.data and role not in roles:
            yield f"{pass_.name} needs data.{role}, which the plan does not name"
    if pass_.repetitions() > 1:
        yield from _repetition_faults(plan, pass_.repetitions(), roles)
    yield from absent(pass_.name, (pass_.extra,) if pass_.extra else ())
    for name in pass_.reads():
        if not (plan.root / name).exists():
            yield f"{pass_.name}: {plan.root / name} does not exist"
    if state.model is not None:
        yield from pass_.faults_before(state.model, holds_behind(plan, step, branch, state.model))
    if state.preview is not None:
        yield from pass_.grid_faults(state.preview.grid, state.model)


def _repetition_faults(plan: Plan, seeds: int, roles: frozenset[str]) -> Iterator[str]:
    source = plan.data.get("calibrate")
    if "calibrate" in roles:
        yield f"calibration_seeds {seeds} wants data.calibrate named in the plan, so that other samples can be chosen"
    elif source is not None and not source.chooses():
        yield f"calibration_seeds {seeds} would take the same text each time; samples: in data.calibrate would choose"
