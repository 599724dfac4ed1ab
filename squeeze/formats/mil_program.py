"""A MIL program as data: what Core ML's packages hold, once it is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from squeeze.errors import ModelError
from squeeze.formats.tensor_spec import TensorSpec

CONSTANT, COMPRESSED = "const", "constexpr_"
WIDENED = "constexpr_cast"  # a weight that is stored as float16
WIDTHS = {"INT4": 4, "INT8": 8}  # of a grid's integers
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Operation:
    """One operation.

    Args:
        output: Name of what it gives.
        shape, dtype: Of what it gives, the latter as the format calls it.
        reads: By parameter, names of constants and of what operations before it give.
    """

    kind: str
    output: str
    shape: tuple[int, ...]
    dtype: str
    reads: Mapping[str, tuple[str, ...]]


@dataclass
class Program:
    """The one function of a package.

    Args:
        constants: Arrays, texts and truth values, by name.
        dtypes: Of constants, as the format calls them.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    constants: dict[str, Any] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)

    def constant(self, operation: Operation, parameter: str) -> Any:
        """What a constant parameter is; None: it is not given, or computed."""
        names = operation.reads.get(parameter)
        return self.constants.get(names[0]) if names else None

    def weights(self) -> Iterator[StoredWeight]:
        """The integers that weights are stored as."""
        for operation in self.operations:
            if operation.kind.startswith(COMPRESSED) and operation.kind != WIDENED:
                yield _stored_weight(self, operation)


@dataclass(frozen=True)
class StoredWeight:
    """A weight as integers: ``real = scale * (q - zero_point)``.

    Args:
        q: int8 ``[out, ...]``, whatever its width.
        scale, zero_point: With as many axes as ``q`` has; each stands for a block of it.
    """

    name: str
    q: Array
    scale: Array
    zero_point: Array
    bits: int

    def real(self) -> Array:
        """float32, of the shape of ``q``."""
        scale, zero = (self._spread(each) for each in (self.scale, self.zero_point))
        return scale * (self.q.astype(np.float32) - zero.astype(np.float32))

    def _spread(self, values: Array) -> Array:
        for axis, size in enumerate(self.q.shape):
            values = np.repeat(values, size // values.shape[axis], axis)
        return values


def _stored_weight(program: Program, operation: Operation) -> StoredWeight:
    """Either kind: a scale for each channel along an axis, or for each block.

    Raises:
        ModelError: a part is not there, or does not fit the others.
    """
    if "data" in operation.reads:
        q, scale = (_array(program, operation, name) for name in ("data", "scale"))
        given = program.constant(operation, "offset") is not None
        zero_point = _array(program, operation, "offset") if given else np.zeros_like(scale, np.int8)
    else:
        q, axis = (_array(program, operation, name) for name in ("quantized_data", "axis"))
        place = int(axis.item()) if axis.size == 1 else q.ndim
        both = [_array(program, operation, name) for name in ("scale", "zero_point")]
        scale, zero_point = (_along(each, place, q) for each in both)
    integers = operation.reads["data" if "data" in operation.reads else "quantized_data"]
    bits, shapes = WIDTHS.get(program.dtypes[integers[0]], 0), (q.shape, scale.shape, zero_point.shape)
    fits = scale.shape == zero_point.shape and len(q.shape) == len(scale.shape) and np.isfinite(scale).all()
    if not fits or not bits or any(not parts or size % parts for size, parts, _ in zip(*shapes, strict=True)):
        raise ModelError(f"{operation.output}: its scales do not fit its integers {list(q.shape)}")
    if q.size and (q.min() < -(2 ** (bits - 1)) or q.max() > 2 ** (bits - 1) - 1):
        raise ModelError(f"{operation.output}: integers beyond {bits} bits")
    return StoredWeight(operation.output, q, scale, zero_point, bits)


def _array(program: Program, operation: Operation, parameter: str) -> Array:
    value = program.constant(operation, parameter)
    if not isinstance(value, np.ndarray):
        raise ModelError(f"{operation.output}: {operation.kind} without a stored {parameter}")
    return value


def _along(values: Array, axis: int, like: Array) -> Array:
    """One number for each place of an axis, with as many axes as ``like`` has."""
    return values.reshape([-1 if place == axis else 1 for place in range(like.ndim)]) if axis < like.ndim else values
