"""The quantized weights of a decoder's ONNX file, read back twice: by our own unpacking, and by ONNX Runtime.

A node says in its metadata which weights it holds. ONNX Runtime is given graphs of that one node with the file's own
initializers, some rows and columns at a time: a product with the unit matrix, the rows of a table, or the
dequantization alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from squeeze.errors import ModelError
from squeeze.formats.onnx_blocked import Blocked
from squeeze.formats.onnx_blocked import from_arrays as from_blocked
from squeeze.formats.onnx_external import unsafe_location
from squeeze.formats.onnx_graph import producer
from squeeze.formats.onnx_nbits import NBits
from squeeze.formats.onnx_nbits import from_arrays as from_nbits

WEIGHT_NAMES = "squeeze.weights"  # key of a node's metadata: names, one a line; one of several experts as NAME#PLACE
NBITS, ROWS, BLOCKED = "MatMulNBits", "GatherBlockQuantized", "DequantizeLinear"
UNIT = 256  # columns of a unit matrix, or as many as whole blocks and bytes take
OPSETS = {"": 21, "com.microsoft": 1}
Array = NDArray[Any]


@dataclass(frozen=True)
class FileWeight:
    """What one node holds: weights ``[out, in]``, one under the other.

    Args:
        names: Of the weights.
        form: The operator that reads the integers.
        attributes: The operator's.
        integers, scale, zero_point: As they are stored.
        order: int64 ``[in]``, which input channel each stored one is; None: as they come.
        by_rows: The integers lie ``[out, in]``; else ``[in, out]``.
    """

    names: tuple[str, ...]
    form: str
    attributes: Mapping[str, int]
    integers: Array
    scale: Array
    zero_point: Array | None
    order: Array | None
    by_rows: bool

    @property
    def rows(self) -> int:
        """Output channels."""
        return int(self.integers.shape[0 if self.by_rows else 1])

    @property
    def columns(self) -> int:
        """Input channels."""
        if self.form == NBITS:
            return self.attributes["K"]
        if self.form == ROWS:
            return int(self.integers.shape[1] * 8 // self.attributes["bits"])
        return int(self.integers.size // self.rows)

    def part(self, rows: slice) -> FileWeight:
        """Some output channels of it."""
        place = (rows,) if self.by_rows else (..., rows)
        zero_point = None if self.zero_point is None else self.zero_point[place]
        attributes = dict(self.attributes) | ({"N": len(self.integers[rows])} if self.form == NBITS else {})
        integers, scale = self.integers[place], self.scale[place]
        return replace(self, attributes=attributes, integers=integers, scale=scale, zero_point=zero_point)

    def unpacked(self) -> Tensor:
        """What our own reader makes of it, float32 ``[out, in]``."""
        if self.form != BLOCKED:
            bits, block = self.attributes["bits"], self.attributes["block_size"]
            packed = self.integers.reshape(self.rows, -1, block * bits // 8)
            stored = NBits(packed, self.scale, self.zero_point, self.order, self.rows, self.columns, bits, block)
            return from_nbits(stored).dequantize()
        turn = self.by_rows
        integers, scale = (array.T if turn else array for array in (self.integers, self.scale))
        zero_point = self.zero_point.T if turn and self.zero_point is not None else self.zero_point
        bits = 8 if self.integers.dtype == np.int8 else 4
        blocked = Blocked(integers, scale, zero_point, self.attributes.get("block_size"), self.order)
        return from_blocked(blocked, bits).dequantize()

    def run(self) -> Tensor:
        """What ONNX Runtime makes of it, float32 ``[out, in]``."""
        arrays = [self.integers, self.scale, self.zero_point]
        if self.form == NBITS:
            weight = np.concatenate([self._product(start) for start in range(0, self.columns, self._unit)]).T
        elif self.form == ROWS:
            tokens = np.arange(self.rows)
            weight = _run_node(self.form, [arrays[0], tokens, *arrays[1:]], self.attributes, "com.microsoft", 1)
        else:
            weight = _run_node(self.form, arrays, self.attributes)
            weight = weight if self.by_rows else weight.T
        if self.order is not None:
            weight = weight[:, np.argsort(self.order)]
        return torch.from_numpy(np.ascontiguousarray(weight))

    @property
    def _unit(self) -> int:
        bits, block = self.attributes["bits"], self.attributes["block_size"]
        return block * max(8 // bits, UNIT // block)

    def _product(self, start: int) -> Array:
        """``[columns, out]`` of some columns: their blocks times a unit matrix."""
        bits, block = self.attributes["bits"], self.attributes["block_size"]
        count = min(self._unit, self.columns - start)
        blocks = slice(start // block, -(-(start + count) // block))
        points = slice(blocks.start * bits // 8, -(-blocks.stop * bits // 8))
        zero_point = None if self.zero_point is None else self.zero_point[:, points]
        arrays = [np.eye(count, dtype=np.float32), self.integers[:, blocks], self.scale[:, blocks], zero_point]
        return _run_node(self.form, arrays, {**self.attributes, "K": count}, "com.microsoft", 0)


def file_weights(file: Path) -> Iterator[FileWeight]:
    """Every quantized weight of a file, in its order, one in memory at a time.

    Raises:
        ModelError: no ONNX file, or weights outside its folder.
    """
    try:
        graph_model = ir.load(file)
    except Exception as error:  # protobuf and onnx_ir raise many kinds, all of which mean: this is no model
        raise ModelError(f"{file}: not a readable ONNX file; truncated?") from error
    for node in graph_model.graph.all_nodes():
        if WEIGHT_NAMES in node.metadata_props:
            yield _file_weight(node, file)


def _file_weight(node: ir.Node, file: Path) -> FileWeight:
    names = tuple(node.metadata_props[WEIGHT_NAMES].split("\n"))
    order = _order(node, file) if node.op_type in (NBITS, "MatMul") else None
    inner = producer(node.inputs[1]) if node.op_type == "MatMul" else node
    assert inner is not None
    skipped = {NBITS: 0, ROWS: 1}.get(inner.op_type, -1)
    tables = [_table(value) for place, value in enumerate(inner.inputs[:4]) if place != skipped]
    integers, scale, *points = (_array(value, file) for value in tables)
    assert integers is not None
    assert scale is not None
    attributes = {name: a.as_int() for name, a in inner.attributes.items() if name != "accuracy_level"}
    by_rows = inner.op_type != BLOCKED or node is inner
    return FileWeight(names, inner.op_type, attributes, integers, scale, points[0] if points else None, order, by_rows)


def _order(node: ir.Node, file: Path) -> Array | None:
    """Of the channels that are gathered before a product."""
    gather = producer(node.inputs[0])
    if gather is None or gather.op_type != "Gather" or "axis" not in gather.attributes:
        return None
    return _array(gather.inputs[1], file)


def _table(value: ir.Value | None) -> ir.Value | None:
    """What rows are gathered from; anything else as it is."""
    gather = producer(value)
    return gather.inputs[0] if gather is not None and gather.op_type == "Gather" else value


def _array(value: ir.Value | None, file: Path) -> Array | None:
    tensor = None if value is None else value.const_value
    if tensor is None:
        return None
    if isinstance(tensor, ir.ExternalTensor):
        location = str(tensor.location)
        if unsafe_location(location) or not (file.parent / location).is_file():
            raise ModelError(f"{file}: weights in '{location}', which is no file beside it; refused")
    array: Array = tensor.numpy().copy()
    if isinstance(tensor, ir.ExternalTensor):
        tensor.release()  # each maps the whole file for itself
    return array


def _run_node(
    form: str, arrays: list[Array | None], attributes: Mapping[str, int], domain: str = "", fed_place: int | None = None
) -> Array:
    """What ONNX Runtime makes of one node; the input at place ``fed_place`` is fed, the others are its initializers."""
    import onnxruntime as ort

    values = [None if array is None else _constant(f"input_{place}", array) for place, array in enumerate(arrays)]
    feed = {} if fed_place is None else {f"input_{fed_place}": arrays[fed_place]}
    node = ir.node(form, values, dict(attributes), domain=domain)
    node.outputs[0].name, node.outputs[0].type = "weight", ir.TensorType(ir.DataType.FLOAT)
    inputs = [value for place, value in enumerate(values) if value is not None and place == fed_place]
    constants = [value for place, value in enumerate(values) if value is not None and place != fed_place]
    for value in inputs:
        value.const_value = None
    graph = ir.Graph(inputs, node.outputs, nodes=[node], initializers=constants, opset_imports=OPSETS, name="weight")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    data = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    output: Array = session.run(None, feed)[0]
    return output


def _constant(name: str, array: Array) -> ir.Value:
    return ir.val(name, const_value=ir.Tensor(np.ascontiguousarray(array), name=name))
