"""What the numbers of an input are called in Kotlin and in Swift, and in each runtime's own words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from squeeze.formats.tensor_spec import TensorSpec


@dataclass(frozen=True)
class Names:
    """One element type.

    Args:
        kotlin: Its array.
        buffer: The buffer of ``java.nio`` that ONNX Runtime takes.
        swift: The element of an array.
        ort: Its ``ORTTensorElementDataType``.
        litert: What ``TensorBuffer`` calls writing it.
    """

    kotlin: str
    buffer: str
    swift: str
    ort: str
    litert: str


DTYPES: Mapping[str, Names] = {
    "float32": Names("FloatArray", "FloatBuffer", "Float", "float", "writeFloat"),
    "int32": Names("IntArray", "IntBuffer", "Int32", "int32", "writeInt"),
    "int64": Names("LongArray", "LongBuffer", "Int64", "int64", "writeLong"),
}


def shape_of(spec: TensorSpec, parameter: str) -> tuple[str, ...] | None:
    """The sizes of one example, the first of which counts examples; None where two of the others are free.

    One free size is what the parameter's numbers fill.
    """
    fixed = [size for size in spec.shape[1:] if isinstance(size, int)]
    if len(spec.shape) - 1 - len(fixed) > 1:
        return None
    rest = prod(fixed)
    count = f"{parameter}.SIZE" if rest == 1 else f"{parameter}.SIZE / {rest}"
    return ("1", *(str(size) if isinstance(size, int) else count for size in spec.shape[1:]))
