"""An ONNX graph under construction: nodes with names and shapes, constants once, shapes that torch code would compute.

Undoing a step that was just done (a transpose, a reshape) gives back what was there before, so that the layouts which
torch code goes through leave no nodes behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from squeeze.writers.decoder.shapes import BATCH, LENGTH, Dim, Shape, Size

CONTRIB = "com.microsoft"
OPSETS = {"": 21, CONTRIB: 1}
Attributes = Mapping[str, int | float | str | Sequence[int]]


class Builder:
    """Appends nodes to a graph, or to a branch of an ``If`` while one is open."""

    def __init__(self) -> None:
        self.graph = ir.Graph([], [], nodes=[], opset_imports=OPSETS, name="squeeze")
        self.open: ir.Graph = self.graph
        self.shapes: dict[ir.Value, Shape] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._sizes: dict[Dim, ir.Value] = {}
        self._names: set[str] = set()
        self._count = 0

    def input(self, name: str, shape: Shape, dtype: ir.DataType) -> ir.Value:
        value = self._typed(ir.Value(name=name), shape, dtype)
        self.graph.inputs.append(value)
        return value

    def node(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        shapes: Shape | Sequence[Shape],
        attributes: Attributes | None = None,
        domain: str = "",
        dtype: ir.DataType | Sequence[ir.DataType] = ir.DataType.FLOAT,
        name: str | None = None,
    ) -> tuple[ir.Value, ...]:
        """A node; ``shapes`` and ``dtype`` are of its outputs."""
        every = [shapes] if not shapes or not isinstance(shapes[0], tuple) else list(shapes)
        dtypes = [dtype] * len(every) if isinstance(dtype, ir.DataType) else list(dtype)
        self._count += 1
        label = f"{op}_{self._count}" if name is None else name if name not in self._names else f"{name}_{self._count}"
        self._names.add(label)
        node = ir.node(op, inputs, attributes or {}, domain=domain, num_outputs=len(every), name=label)
        for place, (value, shape, kind) in enumerate(zip(node.outputs, every, dtypes, strict=True)):
            value.name = f"{label}.{place}" if place else f"{label}.out"
            self._typed(value, shape, kind)  # type: ignore[arg-type]
        self.open.append(node)
        return tuple(node.outputs)

    def one(self, op: str, inputs: Sequence[ir.Value | None], shape: Shape, **more: Any) -> ir.Value:
        """A node with one output."""
        return self.node(op, inputs, (shape,), **more)[0]

    def constant(self, values: Any, dtype: Any = np.int64) -> ir.Value:
        """A small constant inside the file; equal ones are one."""
        array: NDArray[Any] = np.asarray(values, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._constants[key] = self.initializer(name, ir.Tensor(array, name=name), tuple(array.shape))
        return self._constants[key]

    def initializer(self, name: str, tensor: ir.TensorProtocol, shape: tuple[int, ...]) -> ir.Value:
        """A constant of the whole graph."""
        value = self._typed(ir.Value(name=name, const_value=tensor), shape, tensor.dtype)
        self.graph.register_initializer(value)
        return value

    def transpose(self, value: ir.Value, order: Sequence[int]) -> ir.Value:
        producer = value.producer()
        if producer is not None and producer.op_type == "Transpose":
            before = producer.attributes["perm"].as_ints()
            origin = producer.inputs[0]
            assert origin is not None
            return self.transpose(origin, [before[axis] for axis in order])
        if list(order) == sorted(order):
            return value
        shape = tuple(self.shapes[value][axis] for axis in order)
        return self.one("Transpose", [value], shape, attributes={"perm": list(order)}, dtype=value.dtype)

    def reshape(self, value: ir.Value, shape: Shape) -> ir.Value:
        """``value`` seen as ``shape``, which holds as many elements."""
        producer = value.producer()
        if producer is not None and producer.op_type == "Reshape":
            origin = producer.inputs[0]
            assert origin is not None
            return self.reshape(origin, shape)
        before = self.shapes[value]
        if before == shape:
            return value
        return self.one("Reshape", [value, self._target(before, shape)], shape, dtype=value.dtype)

    def branches(
        self, condition: ir.Value, branches: Mapping[str, ir.Graph], shapes: Sequence[Shape]
    ) -> tuple[ir.Value, ...]:
        """An ``If``: its two branches give values of the same shapes."""
        outputs = self.node("If", [condition], shapes)
        node = outputs[0].producer()
        assert node is not None
        for key, branch in branches.items():
            node.attributes[key] = ir.AttrGraph(key, branch)
        return outputs

    @contextmanager
    def branch(self, name: str) -> Iterator[ir.Graph]:
        """A graph that nodes go into for as long as the ``with`` lasts; it may read what lies outside."""
        before, self.open = self.open, ir.Graph([], [], nodes=[], name=name)
        try:
            yield self.open
        finally:
            self.open = before

    def size(self, dim: Dim) -> ir.Value:
        """int64 ``[1]``: what a name stands for at run time."""
        if dim not in self._sizes:
            place = {BATCH: 0, LENGTH: 1}[dim]
            tokens = self.graph.inputs[0]
            attributes = {"start": place, "end": place + 1}
            before, self.open = self.open, self.graph  # outside any branch, since others will read it too
            self._sizes[dim] = self.one("Shape", [tokens], (1,), attributes=attributes, dtype=ir.DataType.INT64)
            self.open = before
        return self._sizes[dim]

    def finish(self, outputs: Mapping[str, ir.Value]) -> None:
        """Name what the graph gives, and drop what nothing reads."""
        for name, value in outputs.items():
            value.name = name
            self.graph.outputs.append(value)
        drop_unread(self.graph)

    def _target(self, before: Shape, shape: Shape) -> ir.Value:
        """What ``Reshape`` is told: 0 keeps a size, -1 is worked out."""
        sizes: list[Size] = [0 if i < len(before) and size == before[i] else size for i, size in enumerate(shape)]
        if sum(isinstance(size, Dim) for size in sizes) == 1:
            sizes = [-1 if isinstance(size, Dim) else size for size in sizes]
        if not any(isinstance(size, Dim) for size in sizes):
            return self.constant(sizes)
        parts = [self.size(size) if isinstance(size, Dim) else self.constant([size]) for size in sizes]
        return self.one("Concat", parts, (len(parts),), attributes={"axis": 0}, dtype=ir.DataType.INT64)

    def _typed(self, value: ir.Value, shape: Shape, dtype: ir.DataType | None) -> ir.Value:
        value.shape = ir.Shape([size if isinstance(size, int) else str(size) for size in shape])
        value.type = ir.TensorType(dtype or ir.DataType.FLOAT)
        self.shapes[value] = shape
        return value


def drop_unread(graph: ir.Graph) -> None:
    """Remove nodes and initializers that lead to no output."""
    outputs = set(graph.outputs)
    for node in reversed(list(graph)):
        if not any(value in outputs or value.uses() for value in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]
