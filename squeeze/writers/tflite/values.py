"""Values of an ONNX graph in the file that is written: integers or reals, channels last or as they were.

Kernels of phones take pictures with their channels last. A value of four axes is turned when the first operator wants
it so, and turned back where one does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from squeeze.errors import ModelError
from squeeze.formats.onnx_attributes import value_sizes
from squeeze.formats.onnx_graph import constant
from squeeze.formats.onnx_step import Step
from squeeze.writers.tflite.file import Array, TfliteFile

LAST, BACK = (0, 2, 3, 1), (0, 3, 1, 2)  # channels last, and as ONNX has them
PLACE = {0: 0, 1: 3, 2: 1, 3: 2}  # where an axis lies with channels last


@dataclass(frozen=True)
class Value:
    """One value.

    Args:
        index: Of its tensor.
        shape: As ONNX has it, for one example.
        last: Whether its channels come last in the file.
        step: Of integers; None: reals.
    """

    index: int
    shape: tuple[int, ...]
    last: bool = False
    step: Step | None = None
    dtype: str = "float32"


class Values:
    """All values so far, by their names in the graph."""

    def __init__(self, file: TfliteFile) -> None:
        self.file = file
        self.by_name: dict[str, Value] = {}
        self.integers: dict[str, Value] = {}  # by the name of what DequantizeLinear makes of them

    def new(self, value: ir.Value, last: bool = False, step: Step | None = None, dtype: str = "float32") -> Value:
        """A value of the graph that an operator computes."""
        made = self._made(str(value.name), value_sizes(value), last, step, dtype)
        self.by_name[str(value.name)] = made
        return made

    def read(self, value: ir.Value | None, node: ir.Node) -> Value:
        """A computed value as it is: reals behind integers that nobody has made reals yet are made so."""
        assert value is not None
        name = str(value.name)
        if name not in self.by_name and name in self.integers:
            source = self.integers[name]
            real = self._beside(source, name, None, source.last)
            self.file.operator("DEQUANTIZE", [source.index], [real.index], "DequantizeOptions")
            self.by_name[name] = real
        if name not in self.by_name:
            raise ModelError(f"{node.name}: reads '{name}', which nothing before it computes")
        return self.by_name[name]

    def turned(self, value: Value, last: bool) -> Value:
        """The same value with its channels last, or as ONNX has them."""
        if value.last == last or len(value.shape) != 4:
            return value
        name = f"{self.file.graph.tensors[value.index].name}.{'channels_last' if last else 'channels_first'}"
        turned = self._beside(value, name, value.step, last)
        self.move("TRANSPOSE", value.index, turned.index, LAST if last else BACK, "TransposeOptions")
        return turned

    def on_step(self, value: Value, step: Step) -> Value:
        """The same value on another grid."""
        if value.step == step:
            return value
        name = f"{self.file.graph.tensors[value.index].name}.step{value.index}"
        made = self._beside(value, name, step, value.last)
        self.file.operator("QUANTIZE", [value.index], [made.index], "QuantizeOptions")
        return made

    def move(self, kind: str, source: int, target: int, by: Sequence[int] | Array, options: str = "") -> None:
        """An operator whose second input is a list of numbers."""
        numbers = np.array(by, np.int32)
        places = self.file.constant(f"{self.file.graph.tensors[target].name}.{kind.lower()}", numbers)
        self.file.operator(kind, [source, places], [target], options)

    def stored(self, value: ir.Value, last: bool, rank: int) -> Value:
        """A constant that an operator computes with, with as many axes as its partner has."""
        tensor = constant(value)
        assert tensor is not None
        array = np.asarray(tensor.numpy(), np.float32)
        array = array.reshape((1,) * (rank - array.ndim) + array.shape)
        shape, stored = array.shape, array.transpose(LAST) if last else array
        return Value(self.file.constant(str(value.name), np.ascontiguousarray(stored)), shape, last)

    def padded(self, value: Value, name: str, shape: tuple[int, ...]) -> Value:
        return self._made(name, shape, value.last, value.step, value.dtype)

    def _beside(self, value: Value, name: str, step: Step | None, last: bool) -> Value:
        """The same numbers in another form."""
        dtype = "float32" if value.dtype == "int8" else value.dtype
        return self._made(name, value.shape, last, step, dtype)

    def _made(self, name: str, shape: tuple[int, ...], last: bool, step: Step | None, dtype: str) -> Value:
        dtype = "int8" if step else dtype
        stored = tuple(shape[axis] for axis in LAST) if last else shape
        return Value(self.file.value(name, stored, dtype, step), shape, last, step, dtype)
