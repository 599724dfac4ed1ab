"""How what a run built fits on the device that a target names; it may have grown past it since the check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from squeeze.errors import EffectError
from squeeze.models.base import Model
from squeeze.models.tasks.base import TOKENS
from squeeze.targets import devices, fit
from squeeze.targets.base import Target


def fit_line(target: Target[Any], name: str, root: Path, original: Model, before: Model, packed: Model) -> str:
    """In words.

    Args:
        name: Of the device.
        before: What the packed file was built from.

    Raises:
        EffectError: it does not fit.
    """
    device = devices.load(name, root)
    model = original if packed.task.outputs == TOKENS else before
    integers = fit.multiplies_integers(before.marks(), model)
    timed_as = device.times(target.writer_of(before).timed_as)
    context, element = target.counted_context(model), target.cache_element_bytes
    demand = fit.demand_of(model, packed.nbytes(), packed.macs(), integers, context, element, timed_as)
    for fault in fit.faults(demand, device, name):
        raise EffectError(f"target {target.name}: {fault}")
    return fit.line(demand, device, name)
