"""Does a package fit on a device, and how fast may it be there? From bytes and multiplications, before anything runs.

Speed is a prediction: the larger of the time that memory takes and the time that multiplications take, at 50 to 75 % of
the data sheet's peaks. That band holds ExecuTorch's published Llama 3.2 1B on a OnePlus 12 (1,083 MiB, 50.2 tokens/s);
LiteRT-LM's Gemma 3 1B on a phone of the same chip (557 MB, 43.6) is slower than its band. A runtime's own code and
buffers are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from squeeze.models.base import Model
from squeeze.report.text import size
from squeeze.targets.devices import Device

BAND = (0.5, 0.75)  # share of the peak arithmetic that is reached
COPIES = 2  # copies of the weights: stored, and packed for the kernels
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Demand:
    """What a package asks of a device.

    Args:
        stored: Bytes of the model's files.
        working: Bytes of the largest activations that are alive together, as floats.
        cache: Bytes of keys and values at ``context`` tokens; None: it generates no text.
        macs: For one example or one token; None: not known.
        integers: Whether it multiplies int8.
    """

    stored: int
    working: int
    cache: int | None
    context: int
    macs: int | None
    integers: bool

    def memory(self, device: Device) -> int:
        """Bytes while it runs; a language model's weights are mapped and used as they lie."""
        weights = 0 if device.weights_in_storage else self.stored * (1 if self.cache is not None else COPIES)
        return weights + self.working + (self.cache or 0)

    def seconds(self, device: Device) -> tuple[float, float]:
        """The least and the most that an example or a token is predicted to take."""
        rate = device.int8_macs_per_s if self.integers else device.float_macs_per_s
        transfer_s = (self.stored + (self.cache or 0) / 2) / device.bandwidth_bytes_per_s.value
        at_peak = max(transfer_s, (self.macs or 0) / rate.value)
        return at_peak / BAND[1], at_peak / BAND[0]


def faults(demand: Demand, device: Device, name: str) -> Iterator[str]:
    """What does not fit, with what would."""
    if demand.stored > device.storage_bytes.value:
        has = size(device.storage_bytes.value)
        yield f"device {name} ({device.title}) has {has} of storage, and the files take {size(demand.stored)}"
    if (takes := demand.memory(device)) > device.memory_bytes.value:
        has, how = size(device.memory_bytes.value), _at_context(demand)
        yield f"device {name} ({device.title}) has {has} of memory for an app, and it takes {size(takes)}{how}"


def line(demand: Demand, device: Device, name: str) -> str:
    """The fit in words."""
    memory = f"RAM {size(demand.memory(device))} of {size(device.memory_bytes.value)}{_at_context(demand)}"
    storage = f"storage {size(demand.stored)} of {size(device.storage_bytes.value)}"
    least, most = demand.seconds(device)
    if demand.cache is None:
        speed = f"{1000 * least:.3g} to {1000 * most:.3g} ms an example"
    else:
        speed = f"{1 / most:.3g} to {1 / least:.3g} tokens/s"
    return f"{name} ({device.title}): {storage}, {memory}; predicted, not measured: {speed}"


def _at_context(demand: Demand) -> str:
    if demand.cache is None:
        return ""
    return f" at context {demand.context:,}, KV cache {size(demand.cache)}"


def demand_of(model: Model, stored: int, macs: int | None, integers: bool, context: int, element: int) -> Demand:
    """The demand of a model.

    Args:
        model: An outline is enough.
        stored, macs: As they will be in the package.
        context: Tokens that a text may have, where the model takes as many.
        element: Bytes of a number in the cache.
    """
    values = model.cache_values()
    if values is not None:
        length = min(context, model.context or context)
        return Demand(stored, 0, length * values * element, length, macs, integers)
    return Demand(stored, FLOAT * model.working_values(), None, context, macs, integers)
