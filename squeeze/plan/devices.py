"""Does what a branch packs fit on the device that its target names? Asked from the outline, before anything runs."""

from __future__ import annotations

from squeeze.errors import Fault, UsageError
from squeeze.plan.plan import Branch, Plan
from squeeze.plan.state import State
from squeeze.targets import devices, fit


def fit_on_device(plan: Plan, branch: Branch, end: State) -> tuple[list[Fault], list[str]]:
    """What does not fit, or how it does in words; neither where no device is named or nothing is known of the model."""
    target = branch.target
    if target is None or target.device is None:
        return [], []
    try:
        device = devices.load(target.device, plan.root)
    except UsageError as error:
        return [Fault(branch.place, f"target {branch.name}: {error}")], []
    if end.model is None or end.preview is None:
        return [], []
    integers, element = fit.multiplies_integers(end.marks, end.model), target.cache_element_bytes
    context = target.counted_context(end.model)
    timed_as = device.times(target.writer_of(end.model).timed_as)
    demand = fit.demand_of(end.model, end.preview.nbytes, end.preview.macs, integers, context, element, timed_as)
    misfits = list(fit.faults(demand, device, target.device))
    faults = [Fault(branch.place, f"target {branch.name}: {fault}") for fault in misfits]
    return faults, [] if misfits else [f"{branch.name}: about {fit.line(demand, device, target.device)}"]
