"""Targets whose runtime does not run on this system: their file is made and read back, and its answers are unknown."""

from __future__ import annotations

from collections.abc import Iterator

from squeeze import registry
from squeeze.errors import Fault
from squeeze.plan.plan import Branch, Plan


def not_run_here(branch: Branch) -> Iterator[Fault]:
    """A warning that the row of a target will have no score."""
    if reason := _reason(branch):
        what = "its file is written, read back and not run, so that it has no score and no time here"
        yield Fault(branch.place, f"target {branch.name}: {reason}: {what}")


def strict_faults(plan: Plan, branch: Branch) -> Iterator[Fault]:
    """Bounds that can never be proven of such a target, where an unproven bound breaks the plan."""
    reason = _reason(branch)
    if reason is None or not plan.strict:
        return
    measured = {metric.label for metric in plan.metrics if metric.evidence.runs}
    if bounds := [bound.metric for bound in plan.budget if bound.metric in measured]:
        cure = "leave out strict, the target or the bound"
        what = f"strict: true wants a proof of {', '.join(bounds)}"
        yield Fault(branch.place, f"target {branch.name}: {reason}, and {what}; {cure}")


def _reason(branch: Branch) -> str | None:
    if branch.target is None:
        return None
    reason: str | None = registry.load("runtimes", branch.target.runs_in).cannot_run()
    return reason
