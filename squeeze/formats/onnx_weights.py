"""The quantized weights of a decoder's ONNX file, read back twice: by our own unpacking, and by ONNX Runtime.

A node says in its metadata which weights it holds. ONNX Runtime is given a graph of that one node with the file's own
initializers: a product with the unit matrix, all rows of a table, or the dequantization alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from squeeze.errors import ModelError
from squeeze.formats import onnx_blocked, onnx_nbits
from squeeze.formats.onnx_external import unsafe_location

HELD = "squeeze.weights"  # the key of a node's metadata: names, one a line; one of several experts as NAME#PLACE
UNITS = 512  # rows of the unit matrix at a time
NBITS, ROWS, BLOCKED = "MatMulNBits", "GatherBlockQuantized", "DequantizeLinear"
Array = NDArray[Any]


@dataclass(frozen=True)
class HeldWeight:
    """What one node holds: weights ``[out, in]``, one under the other.

    Args:
        node: The node whose inputs they are (of a MatMul: the DequantizeLinear before it).
        order: int64 ``[in]``, which input channel each stored one is; None: as they come.
        stored: The node's inputs; of a table whose rows are gathered first, the table's.
    """

    names: tuple[str, ...]
    node: ir.Node
    order: Array | None
    stored: tuple[ir.Value | None, ...]

    @property
    def by_rows(self) -> bool:
        """Stored ``[out, in]``, as a table of tokens is."""
        return self.form == ROWS or self.stored != tuple(self.node.inputs)

    @property
    def form(self) -> str:
        """The operator."""
        return self.node.op_type

    def unpacked(self) -> Tensor:
        """What our own reader makes of it, float32 ``[out, in]``."""
        if self.form == BLOCKED:
            real: Tensor = self._blocked().dequantize()
            return real
        return onnx_nbits.from_arrays(self._nbits()).dequantize()

    def _nbits(self) -> onnx_nbits.NBits:
        said = self.node.attributes
        inputs = [value for place, value in enumerate(self.stored) if place != (0 if self.form == NBITS else 1)]
        arrays = [_array(value) for value in inputs[:3]]
        bits, block = said["bits"].as_int(), said["block_size"].as_int()
        packed, scales = arrays[0], arrays[1]
        assert packed is not None
        assert scales is not None
        columns = said["K"].as_int() if self.form == NBITS else packed.shape[1] * 8 // bits
        packed = packed.reshape(len(packed), -1, block * bits // 8)
        points = arrays[2] if len(arrays) > 2 else None
        return onnx_nbits.NBits(packed, scales, points, self.order, len(packed), columns, bits, block)

    def _blocked(self) -> Any:
        said = self.node.attributes
        integers, scale, *rest = (_array(value) for value in self.stored)
        block = said["block_size"].as_int() if "block_size" in said else None
        assert integers is not None
        assert scale is not None
        points = rest[0] if rest else None
        if self.by_rows:
            integers, scale, points = integers.T, scale.T, None if points is None else points.T
        bits = 8 if integers.dtype == np.int8 else 4
        return onnx_blocked.from_arrays(onnx_blocked.Blocked(integers, scale, points, block, self.order), bits)

    def run(self) -> Tensor:
        """What ONNX Runtime makes of it, float32 ``[out, in]``."""
        if self.form == NBITS:
            weight = self._by_units()
        else:
            table = self.stored[0]
            count = int(table.shape[0]) if table is not None and table.shape is not None else 0  # type: ignore[arg-type]
            weight = self._alone({} if self.form == BLOCKED else {"x": np.arange(count)})
        weight = weight if self.by_rows else weight.T
        if self.order is not None:
            weight = weight[:, np.argsort(self.order)]
        return torch.from_numpy(np.ascontiguousarray(weight))

    def _by_units(self) -> Array:
        columns = self.node.attributes["K"].as_int()
        session = self._session()
        parts = [
            session.run(None, {"x": np.eye(min(UNITS, columns - start), columns, start, np.float32)})[0]
            for start in range(0, columns, UNITS)
        ]
        return np.concatenate(parts)

    def _alone(self, feed: dict[str, Array]) -> Array:
        found: Array = self._session().run(None, feed)[0]
        return found

    def _session(self) -> Any:
        """A graph of this node alone, activations in float32."""
        import onnxruntime as ort

        place = {NBITS: 0, ROWS: 1, BLOCKED: -1}[self.form]
        kind = ir.DataType.FLOAT if self.form == NBITS else ir.DataType.INT64
        x = ir.Value(name="x", shape=ir.Shape(["n", "k"] if self.form == NBITS else ["n"]), type=ir.TensorType(kind))
        held = [_constant(value) if value is not None and at != place else None for at, value in enumerate(self.stored)]
        inputs = [x if at == place else value for at, value in enumerate(held)][: 5 if self.form == NBITS else None]
        attributes = {name: said for name, said in self.node.attributes.items() if name != "accuracy_level"}
        node = ir.Node(self.node.domain, self.form, inputs, attributes.values(), num_outputs=1)
        node.outputs[0].name, node.outputs[0].type = "weight", ir.TensorType(ir.DataType.FLOAT)
        kept = [value for value in held if value is not None]
        opsets = {"": 21, "com.microsoft": 1}
        inside = [x] if place >= 0 else []
        graph = ir.Graph(inside, node.outputs, nodes=[node], initializers=kept, opset_imports=opsets, name="weight")
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        data = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def held_weights(file: Path) -> Iterator[HeldWeight]:
    """Every quantized weight of a file, in its order.

    Raises:
        ModelError: no ONNX file, or weights outside its folder.
    """
    try:
        graph_model = ir.load(file)
    except Exception as error:  # protobuf and onnx_ir raise many kinds, all of which mean: this is no model
        raise ModelError(f"{file}: not a readable ONNX file; truncated?") from error
    for node in graph_model.graph.all_nodes():
        if HELD in node.metadata_props:
            yield _held(node, file)


def _held(node: ir.Node, file: Path) -> HeldWeight:
    names = tuple(node.metadata_props[HELD].split("\n"))
    first = node.inputs[0]
    before = first.producer() if first is not None and node.op_type in (NBITS, "MatMul") else None
    order = (
        _array(before.inputs[1]) if before is not None and before.op_type == "Gather" and _of_channels(before) else None
    )
    inner = node
    if node.op_type == "MatMul":
        second = node.inputs[1]
        producer = second.producer() if second is not None else None
        assert producer is not None
        inner = producer
    stored = tuple(_table(value) for value in inner.inputs) if inner.op_type == BLOCKED else tuple(inner.inputs)
    for value in stored:
        if value is not None and isinstance(value.const_value, ir.ExternalTensor):
            _require_inside(value.const_value, file)
    return HeldWeight(names, inner, order, stored)


def _table(value: ir.Value | None) -> ir.Value | None:
    """What rows are gathered from; anything else as it is."""
    producer = value.producer() if value is not None else None
    return producer.inputs[0] if producer is not None and producer.op_type == "Gather" else value


def _of_channels(gather: ir.Node) -> bool:
    return "axis" in gather.attributes and gather.attributes["axis"].as_int() == -1


def _require_inside(tensor: ir.ExternalTensor, file: Path) -> None:
    location = str(tensor.location)
    if unsafe_location(location) or not (file.parent / location).is_file():
        raise ModelError(f"{file}: weights in '{location}', which is no file beside it; refused")


def _array(value: ir.Value | None) -> Array | None:
    if value is None or value.const_value is None:
        return None
    return value.const_value.numpy().copy()  # not mapped: the file is done with


def _constant(value: ir.Value) -> ir.Value:
    """The same initializer, inside the file."""
    tensor = value.const_value
    assert tensor is not None
    copy = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=value.name)
    return ir.Value(name=value.name, shape=value.shape, type=value.type, const_value=copy)
