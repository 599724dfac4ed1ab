"""Does a package fit on a device, and how fast may it be there? From bytes and multiplications, before anything runs.

Speed is a prediction. Where the device's profile holds measured speeds of the package's format (``squeeze bench
--profile``), it is the sum over layers, and the interval a factor of ``WIDTH`` wide around it. Else it is the larger of
the time that memory takes and the time that multiplications take, at 50 to 75 % of the data sheet's peaks; that band
holds ExecuTorch's published Llama 3.2 1B on a OnePlus 12 (1,083 MiB, 50.2 tokens/s), and is too fast for LiteRT-LM's
Gemma 3 1B on a phone of the same chip (557 MB, 43.6). A runtime's own code and buffers are not counted.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from math import sqrt

from squeeze.formats.operation import WIDE, Numbers, Operation
from squeeze.models.base import FULLY, Model
from squeeze.models.tasks.base import TOKENS
from squeeze.report.text import size
from squeeze.targets.devices import Device

BAND = (0.5, 0.75)  # share of the peak arithmetic that is reached
WIDTH = 1.5  # the most of an interval over its least
INT4_BYTES, INT8_BYTES = 0.8, 1.5  # a weight that takes less has at most 4 or 8 bits, scales of its group included
COPIES = 2  # copies of the weights: stored, and packed for the kernels
FLOAT = 4  # bytes
FLOAT_KINDS = ("curve", "norm", "softmax", "glue", "attention")  # which are not run on integers


@dataclass(frozen=True)
class Demand:
    """What a package asks of a device.

    Args:
        stored: Bytes of the model's files.
        working: Bytes of the largest activations that are alive together, as floats.
        cache: Bytes of keys and values at ``context`` tokens; None: it generates no text.
        macs: For one example or one token; None: not known.
        integers: Whether it multiplies int8.
        operations: What its runtime runs for one example or token; none where that is not known.
        timed_as: The format of its files in a profile's measured speeds; None: none.
    """

    stored: int
    working: int
    cache: int | None
    context: int
    macs: int | None
    integers: bool
    operations: tuple[Operation, ...] = ()
    timed_as: str | None = None

    def memory(self, device: Device) -> int:
        """Bytes while it runs; a language model's weights are mapped and used as they lie."""
        weights = 0 if device.weights_in_storage else self.stored * (1 if self.cache is not None else COPIES)
        return weights + self.working + (self.cache or 0)

    def seconds(self, device: Device) -> tuple[float, float]:
        """The least and the most that an example or a token is predicted to take."""
        if (summed := self.layers_seconds(device)) is not None:
            return summed / sqrt(WIDTH), summed * sqrt(WIDTH)
        rate = device.int8_macs_per_s if self.integers else device.float_macs_per_s
        transfer_s = (self.stored + (self.cache or 0) / 2) / device.bandwidth_bytes_per_s.value
        at_peak = max(transfer_s, (self.macs or 0) / rate.value)
        return at_peak / BAND[1], at_peak / BAND[0]

    def layers_seconds(self, device: Device) -> float | None:
        """Layer by layer at speeds that were measured; None where the profile has none of the format, or of a layer."""
        measured = device.measured.get(self.timed_as or "")
        if measured is None or device.read_bytes_per_s is None or not self.operations:
            return None
        return measured.seconds(self.operations, device.read_bytes_per_s)


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
    how = "peaks" if demand.layers_seconds(device) is None else f"layers measured as {demand.timed_as}"
    return f"{name} ({device.title}): {storage}, {memory}; predicted from its {how}, not measured: {speed}"


def _at_context(demand: Demand) -> str:
    if demand.cache is None:
        return ""
    return f" at context {demand.context:,}, KV cache {size(demand.cache)}"


def multiplies_integers(marks: Container[str], model: Model) -> bool:
    """Whether products are of integers: a language model's with quantized weights, others' with activations too."""
    return ("quantized" if model.task.outputs == TOKENS else FULLY) in marks


def demand_of(
    model: Model, stored: int, macs: int | None, integers: bool, context: int, element: int, timed_as: str | None = None
) -> Demand:
    """The demand of a model.

    Args:
        model: An outline is enough.
        stored, macs: As they will be in the package.
        context: Tokens that a text may have, where the model takes as many; speed is told of a text half as long.
        element: Bytes of a number in the cache.
        timed_as: The format of the files in a profile's measured speeds.
    """
    values, length, cache = model.cache_values(), context, None
    working = 0 if values is not None else FLOAT * model.working_values()
    if values is not None:
        length = min(context, model.context or context)
        cache = length * values * element
    run = model.operations(length // 2) if timed_as is not None and macs is not None else None
    packed = tuple(_as_packed(run, model, stored, macs, integers)) if run and macs else ()
    return Demand(stored, working, cache, length, macs, integers, packed, timed_as)


def _as_packed(run: Sequence[Operation], model: Model, stored: int, macs: int, integers: bool) -> Iterator[Operation]:
    """A model's operations as its package runs them: smaller where passes make it so, on integers where they do."""
    if any(one.numbers != "float" for one in run):
        yield from run  # as they are in the graph itself
        return
    weights, before = model.parameters(), model.macs()
    smaller = macs / before if before else 1.0
    bytes_each = stored / (smaller * weights) if weights else WIDE["float"]
    generates = model.task.outputs == TOKENS
    numbers = _numbers(bytes_each, generates, integers)
    for one in run:
        stored_here = round(one.weight_bytes * smaller * bytes_each / WIDE["float"])
        changed = replace(one, macs=round(one.macs * smaller), weight_bytes=stored_here)
        yield _on(numbers, changed, generates or model.reads_tokens())


def _numbers(bytes_each: float, generates: bool, integers: bool) -> Numbers:
    """What is multiplied; of a language model's files their size tells."""
    if generates:
        return "int4" if bytes_each < INT4_BYTES else "int8" if bytes_each < INT8_BYTES else "float"
    return "int8" if integers else "float"


def _on(numbers: Numbers, one: Operation, tokens: bool) -> Operation:
    """The same on integers: of what reads tokens only products with stored weights, and all of a network's layers."""
    if not tokens:
        return one if one.kind in FLOAT_KINDS else replace(one, numbers=numbers)
    if numbers == "float" or one.kind != "matmul" or not one.weight_bytes:
        return one
    return replace(one, numbers=numbers, kind="matmul" if numbers == "int4" else "dynamic")
