"""A layer of a graph that XNNPACK runs, in the words of ExecuTorch's schemas; its numbers stay in the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from squeeze.formats.file_part import FilePart

WEIGHTED = ("XNNConv2d", "XNNDepthwiseConv2d", "XNNFullyConnected")
NARROW = ("xnn_datatype_qcint4", "xnn_datatype_qbint4")
DTYPES = {
    "xnn_datatype_fp32": np.float32,
    "xnn_datatype_qint32": np.int32,
    "xnn_datatype_qcint32": np.int32,
    "xnn_datatype_qint8": np.int8,
    "xnn_datatype_qcint8": np.int8,
}
ALL = slice(None)
Array = np.ndarray[Any, Any]
Value = Mapping[str, Any]  # an XValue, as flatc writes it


@dataclass(frozen=True, eq=False)
class StoredLayer:
    """A convolution or matrix product of an XNNPACK graph.

    Args:
        kind: XNNPACK's name of it.
        filter: The value that its weight is.
        added: The one that its bias is.
        constants: Of its graph, by index.
        source: Scale, to the six decimals that flatc writes, and zero point of what goes in; None: floats, or a range
            of its own each time.
    """

    kind: str
    filter: Value
    added: Value | None
    constants: Mapping[int, FilePart]
    source: tuple[float, int] | None

    @classmethod
    def of(cls, node: Value, values: Mapping[int, Value], constants: Mapping[int, FilePart]) -> StoredLayer:
        """From a node of the graph and the values that it reads."""
        union = node["xnode_union"]
        weight, bias = (values.get(int(union[part])) for part in ("filter_id", "bias_id"))
        assert weight is not None
        source = per_tensor(values[int(union["input1_id"])])
        return cls(node["xnode_union_type"], weight, bias, constants, source)

    @property
    def weight(self) -> Array:
        """As stored: ``[out, height, width, in]``, depthwise ``[1, height, width, out]``, a matrix ``[out, in]``."""
        return _array(self.filter, self.constants)

    @property
    def bias(self) -> Array | None:
        """int32 or float32 ``[out]``."""
        return None if self.added is None else _array(self.added, self.constants)

    @property
    def quantized(self) -> bool:
        """Whether the weight is integers."""
        return self.filter["xvalue_union"].get("quant_params") is not None

    @property
    def scale(self) -> Array | None:
        """float32 ``[out]``, ``[out, groups]``, or one; None: the weight is floats."""
        return _scale(self.filter, self.constants)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight as a grid has it: ``[out, in per group x height x width]``."""
        sizes = _sizes(self.filter)
        out = sizes[3] if self.kind == "XNNDepthwiseConv2d" else sizes[0]
        return out, prod(sizes) // out

    def matrix(self, rows: slice = ALL) -> Array:
        """The weight as a grid has it, or some of its rows."""
        if len(_sizes(self.filter)) == 2:
            return _array(self.filter, self.constants, rows)
        weight = self.weight
        if self.kind == "XNNDepthwiseConv2d":
            return np.ascontiguousarray(weight[0].transpose(2, 0, 1)).reshape(weight.shape[3], -1)[rows]
        return np.ascontiguousarray(weight.transpose(0, 3, 1, 2)).reshape(len(weight), -1)[rows]

    def real(self, rows: slice = ALL) -> Array:
        """float32 ``[out, in]``: scale times integer; the floats where it has no scale."""
        matrix, scale = self.matrix(rows), _scale(self.filter, self.constants, rows)
        if scale is None:
            return matrix
        groups = scale.shape[1] if scale.ndim == 2 else 1
        grouped = matrix.reshape(len(matrix), groups, -1).astype(np.float32)
        return (scale.reshape(-1, groups, 1) * grouped).reshape(matrix.shape)


def tensor(value: Value) -> Value:
    """What a value says of its sizes and numbers."""
    union = value["xvalue_union"]
    found: Value = union.get("tensor_value", union)
    return found


def _sizes(value: Value) -> list[int]:
    return [int(size) for size in tensor(value)["dims"]]


def _array(value: Value, constants: Mapping[int, FilePart], rows: slice = ALL) -> Array:
    """The constant that a value is; ``rows`` of its first dimension alone are read."""
    kind, sizes = str(tensor(value)["datatype"]), _sizes(value)
    first, last, _ = rows.indices(sizes[0])
    columns = prod(sizes[1:])
    dtype = np.dtype(np.uint8 if kind in NARROW else DTYPES[kind])
    row_bytes = -(-columns // 2) if kind in NARROW else columns * dtype.itemsize
    part = constants[int(tensor(value)["constant_buffer_idx"])]
    stored = np.frombuffer(part.read(first * row_bytes, (last - first) * row_bytes), dtype)
    if kind in NARROW:
        return _nibbles(stored.reshape(last - first, row_bytes), columns)
    return stored.reshape(last - first, *sizes[1:])


def _nibbles(pairs: Array, columns: int) -> Array:
    """int8 ``[out, in]`` of 4 bits, 8 more than they are, the first of two in the low half of a byte."""
    both = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(len(pairs), -1)[:, :columns]
    return both.astype(np.int8) - 8


def _scale(value: Value, constants: Mapping[int, FilePart], rows: slice = ALL) -> Array | None:
    """Of some of the rows, where each has its own."""
    union = value["xvalue_union"]
    params = union.get("quant_params")
    if params is None:
        return None
    if union["quant_params_type"] == "PerTensorQuant":
        return np.array([params["scale"]], np.float32)
    if params.get("scale"):
        return np.array(params["scale"], np.float32)[rows]
    part, count = constants[int(params["scale_buffer_idx"])], int(params["num_scales"])
    if union["quant_params_type"] != "PerChannelGroupQuant":
        return np.frombuffer(part.read(), np.float32, count)[rows]
    out = _sizes(value)[0]
    first, last, _ = rows.indices(out)
    row_bytes = 2 * count // out  # bfloat16
    stored = np.frombuffer(part.read(first * row_bytes, (last - first) * row_bytes), np.uint16)
    return (stored.astype(np.uint32) << 16).view(np.float32).reshape(last - first, -1)


def per_tensor(value: Value) -> tuple[float, int] | None:
    """Scale and zero point of activations that have one of each."""
    union = value["xvalue_union"]
    if union.get("quant_params_type") != "PerTensorQuant":
        return None
    return float(union["quant_params"]["scale"]), int(union["quant_params"]["zero_point"])
