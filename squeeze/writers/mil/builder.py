"""coremltools' builder of MIL, in which equal constants are one: paddings, strides, scales, zero points.

Each constant takes a hundred bytes and more of a package, and a network of 20 layers has hundreds that are equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from squeeze.formats.mil_program import CONSTANT


class Builder:
    """Called as coremltools' own is: ``builder.conv(x=..., name=...)``; constants may be plain numbers and lists."""

    def __init__(self) -> None:
        from coremltools.converters.mil.mil import Builder as Own
        from coremltools.converters.mil.mil import Var

        self._own, self._computed = Own, Var
        self._constants: dict[tuple[Any, ...], Any] = {}

    def __getattr__(self, kind: str) -> Callable[..., Any]:
        operation = getattr(self._own, kind)

        def add(name: str, **parameters: Any) -> Any:
            return operation(name=name, **{parameter: self._operand(value) for parameter, value in parameters.items()})

        return add

    def input(self, name: str, shape: tuple[int, ...]) -> Any:
        """A float32 input."""
        from coremltools.converters.mil.mil import types

        return self._own.placeholder(shape=shape, dtype=types.fp32, name=name)

    def _operand(self, value: Any) -> Any:
        """A computed value or a list of them as it is; a constant as the one that equals it."""
        if isinstance(value, list) and any(isinstance(each, self._computed) for each in value):
            return [self._operand(each) for each in value]
        if isinstance(value, self._computed) or _is_marked(value):
            return value
        plain = value if isinstance(value, str | bool) else _array(value)
        key = (type(plain), plain) if isinstance(plain, str | bool) else _key(plain)
        if key not in self._constants:
            self._constants[key] = self._own.const(val=plain, name=f"constant__{len(self._constants)}")
        return self._constants[key]


def _is_marked(value: Any) -> bool:
    """Integers of four bits are int8 with a mark, which a constant made of them apart would lose."""
    return isinstance(value, np.ndarray) and bool(value.dtype.metadata)


def _array(value: Any) -> Any:
    """Plain whole numbers as int32, which MIL's options are."""
    if isinstance(value, np.ndarray | np.generic):
        return value
    return np.int32(value) if isinstance(value, int) else np.array(value, np.int32)


def _key(array: Any) -> tuple[Any, ...]:
    return array.dtype.name, array.shape, hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()


def name_rest(function: Any) -> None:
    """Call constants that coremltools added by who reads them: it numbers them by all that its process ever built."""
    for operation in function.operations:
        for parameter, values in operation.inputs.items():
            several = isinstance(values, list | tuple)
            for number, value in enumerate(values if several else [values]):
                if value.op is not None and value.op.op_type == CONSTANT and not value.name.startswith("constant__"):
                    name = f"{operation.name}__{parameter}{number if several else ''}"
                    value.op.name = value.name = name
