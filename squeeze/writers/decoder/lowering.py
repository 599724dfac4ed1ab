"""Weights put where a traced graph names them: read one by one, written beside the graph, seen through their operator.

Quantized ones as MatMulNBits (``nbits``) or as DequantizeLinear before a MatMul (``qdq``), dense ones in their own
float type. A table of tokens that is also the head is stored once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import ModelError
from squeeze.formats import onnx_blocked, onnx_nbits
from squeeze.formats.onnx_graph import input_at
from squeeze.formats.onnx_side import SideFile
from squeeze.formats.onnx_weights import WEIGHT_NAMES
from squeeze.models.language.language_model import LanguageModel
from squeeze.writers.decoder.graph import CONTRIB
from squeeze.writers.decoder.merging import fuse_residuals, merge
from squeeze.writers.decoder.weights import DOMAIN, EMBEDDING, LINEAR, Place

WeightEncoding = Literal["nbits", "qdq"]
INLINE_BYTES = 1024  # larger constants go beside the graph
FLOATS = {torch.float32: ir.DataType.FLOAT, torch.float16: ir.DataType.FLOAT16, torch.bfloat16: ir.DataType.BFLOAT16}
FLOAT = int(ir.DataType.FLOAT)


class Lowering:
    """Replaces the nodes that name weights, in the graph's order."""

    def __init__(
        self, model: LanguageModel, graph: ir.Graph, side: SideFile, encoding: WeightEncoding, accuracy_level: int
    ) -> None:
        self.model, self.graph, self.side = model, graph, side
        self.encoding, self.accuracy_level = encoding, accuracy_level
        self.values: dict[str, ir.Value] = {}  # initializers by name
        self.orders: dict[tuple[ir.Value, bytes], ir.Value] = {}  # activations in an order of channels
        self._last: tuple[str, QuantizedTensor] | None = None

    def kind(self, name: str) -> object:
        """What a matrix must share with another for the two to lie in one tensor; None: it shares with none."""
        entry = self.model.grid.get(name)
        if entry is None:
            return str(self.model.tensor(name).dtype)
        index = self.model.group_index(name)
        order = None if index is None else tuple(index.tolist())
        return entry.bits, entry.group_size, entry.symmetric, order

    def run(self) -> None:
        """All of them, those in branches too; then constants that are large."""
        merge(self.graph, self.kind)
        fuse_residuals(self.graph)
        for graph in (self.graph, *self.graph.subgraphs()):
            for node in [node for node in graph if node.domain == DOMAIN]:
                lower = {LINEAR: self._linear, EMBEDDING: self._embedding}[node.op_type]
                _Replaced(graph, node).by(lower)
        for name, value in list(self.graph.initializers.items()):
            tensor = value.const_value
            if tensor is not None and not isinstance(tensor, ir.ExternalTensor) and tensor.nbytes > INLINE_BYTES:
                value.const_value = self.side.append(name, tensor.numpy())

    def _linear(self, at: _Replaced) -> ir.Value:
        place = Place.of(at.node)
        x = at.node.inputs[0]
        bias = input_at(at.node, 1)
        assert x is not None
        if place.names[0] not in self.model.grid:
            return at.plus(self._dense_product(at, place, x), bias)
        if self.encoding == "qdq":
            return at.plus(self._dequantized_product(at, place, x), bias)
        return self._nbits_product(at, place, x, bias)

    def _nbits_product(self, at: _Replaced, place: Place, x: ir.Value, bias: ir.Value | None) -> ir.Value:
        stored = onnx_nbits.to_arrays(self._grid(place))
        x = self._ordered(at, x, stored.order, place)
        at.holds = place
        attributes = {"K": stored.columns, "N": stored.rows, "bits": stored.bits, "block_size": stored.block}
        if self.accuracy_level:
            attributes["accuracy_level"] = self.accuracy_level
        parts = self._nbits_values(place, stored, (stored.rows, stored.packed.shape[1], stored.packed.shape[2]))
        inputs = [x, *parts] if bias is None else [x, *parts, *[None] * (3 - len(parts)), None, bias]
        return at.add("MatMulNBits", inputs, attributes, CONTRIB)

    def _nbits_values(self, place: Place, stored: onnx_nbits.NBits, shape: tuple[int, ...]) -> list[ir.Value]:
        """``B``, ``scales`` and maybe ``zero_points``; integers may be there already in another shape."""
        packed = self._value(f"{place.key}.q", stored.packed)
        if tuple(packed.shape or ()) != shape:
            packed = self._reshaped(f"{place.key}.q.{len(shape)}d", packed, shape)
        parts = [packed, self._value(f"{place.key}.scale", stored.scales)]
        if stored.zero_points is not None:
            parts.append(self._value(f"{place.key}.zero_point", stored.zero_points))
        return parts

    def _dequantized_product(self, at: _Replaced, place: Place, x: ir.Value) -> ir.Value:
        stored = onnx_blocked.to_arrays(self._grid(place))
        x = self._ordered(at, x, stored.order, place)
        arrays = {"q": stored.integers, "scale": stored.scale}
        if stored.zero_point is not None:
            arrays["zero_point"] = stored.zero_point
        # in the node's own graph: inside an If branch the runtime rewrites only local values
        parts = [self._initializer(self.side.append(f"{place.key}.{n}", a), at.graph) for n, a in arrays.items()]
        attributes = {"axis": 1} if stored.block is None else {"axis": 0, "block_size": stored.block}
        weight = at.add("DequantizeLinear", parts, attributes, suffix=".dequantize")
        at.holds = place
        return at.add("MatMul", [x, weight])

    def _dense_product(self, at: _Replaced, place: Place, x: ir.Value) -> ir.Value:
        weight = self._dense(place)
        if weight.dtype != ir.DataType.FLOAT:
            weight = at.add("Cast", [weight], {"to": FLOAT}, suffix=".float")
        return at.add("FusedMatMul", [x, weight], {"transB": 1}, CONTRIB)

    def _embedding(self, at: _Replaced) -> ir.Value:
        place = Place.of(at.node)
        tokens = at.node.inputs[0]
        assert tokens is not None
        if place.names[0] not in self.model.grid:
            rows = at.add("Gather", [self._dense(place), tokens])
            return rows if rows.dtype == ir.DataType.FLOAT else at.add("Cast", [rows], {"to": FLOAT})
        lower = self._nbits_rows if self.encoding == "nbits" else self._blocked_rows
        return lower(at, place, tokens)

    def _nbits_rows(self, at: _Replaced, place: Place, tokens: ir.Value) -> ir.Value:
        stored = onnx_nbits.to_arrays(self._grid(place))
        if stored.order is not None or stored.columns % stored.block:
            raise ModelError(f"{place.key}: GatherBlockQuantized wants groups that divide {stored.columns} in order")
        packed, *rest = self._nbits_values(place, stored, (stored.rows, stored.columns * stored.bits // 8))
        at.holds = place
        attributes = {"bits": stored.bits, "block_size": stored.block, "gather_axis": 0, "quantize_axis": 1}
        return at.add("GatherBlockQuantized", [packed, tokens, *rest], attributes, CONTRIB)

    def _blocked_rows(self, at: _Replaced, place: Place, tokens: ir.Value) -> ir.Value:
        """Rows of integers and of scales, then what they stand for; int8, since Gather knows no int4 everywhere."""
        grid = self._grid(place)
        if grid.g_idx is not None:
            what = "a table of tokens whose groups are not consecutive channels"
            raise ModelError(f"{place.key}: {what} has no QDQ form")
        size = grid.group_size or grid.q.shape[1]
        arrays = {"rows": grid.q.numpy(), "row_scale": grid.scale.float().numpy()}
        if not grid.symmetric:
            arrays["row_zero_point"] = grid.zero_point.to(torch.int8).numpy()
        tables = {name: self._value(f"{place.key}.{name}", array) for name, array in arrays.items()}
        rows = [at.add("Gather", [table, tokens], suffix=f".{name}") for name, table in tables.items()]
        at.holds = place
        return at.add("DequantizeLinear", rows, {"axis": -1, "block_size": size})

    def _ordered(self, at: _Replaced, x: ir.Value, order: NDArray[Any] | None, place: Place) -> ir.Value:
        """Activations in the order of channels in which a weight's groups are consecutive."""
        if order is None:
            return x
        key = (x, order.tobytes())
        if key not in self.orders:
            indices = self._value(f"{place.key}.order", order)
            self.orders[key] = at.add("Gather", [x, indices], {"axis": -1}, suffix=".order")
        return self.orders[key]

    def _grid(self, place: Place) -> QuantizedTensor:
        return QuantizedTensor.stack([self._part(name, place.expert) for name in place.names])

    def _part(self, name: str, expert: int) -> QuantizedTensor:
        if self._last is None or self._last[0] != name:
            self._last = (name, self.model.quantized(name))
        grid = self._last[1]
        if expert < 0:
            return grid
        rows = self.model.grid[name].shape[1]
        return grid.rows(slice(expert * rows, (expert + 1) * rows))

    def _dense(self, place: Place) -> ir.Value:
        if place.key in self.values:
            return self.values[place.key]
        parts = [self.model.tensor(name) for name in place.names]
        tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
        array, dtype = _raw(tensor if place.expert < 0 else tensor[place.expert])
        return self._value(place.key, array, dtype)

    def _value(self, name: str, array: NDArray[Any], dtype: ir.DataType | None = None) -> ir.Value:
        if name not in self.values:
            self.values[name] = self._initializer(self.side.append(name, array, dtype))
        return self.values[name]

    def _reshaped(self, name: str, value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
        """The same bytes of the file, seen as another shape."""
        tensor = value.const_value
        assert isinstance(tensor, ir.ExternalTensor)
        if name not in self.values:
            start, length = tensor.offset or 0, tensor.length or 0
            self.values[name] = self._initializer(self.side.view(name, start, length, tensor.dtype, shape))
        return self.values[name]

    def _initializer(self, tensor: ir.ExternalTensor, graph: ir.Graph | None = None) -> ir.Value:
        value = ir.val(tensor.name, const_value=tensor)
        (graph or self.graph).register_initializer(value)
        return value


class _Replaced:
    """One node of a graph, and the nodes that come in its place."""

    def __init__(self, graph: ir.Graph, node: ir.Node) -> None:
        self.graph, self.node = graph, node
        self.holds: Place | None = None  # the quantized weight of the node that is added next

    def by(self, lower: Any) -> None:
        """Put what ``lower`` adds in the node's place."""
        old = self.node.outputs[0]
        new = lower(self)
        ir.convenience.replace_nodes_and_values(self.graph, self.node, [self.node], [], [old], [new])
        new.producer().name = self.node.name

    def add(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        attributes: dict[str, int] | None = None,
        domain: str = "",
        suffix: str = "",
    ) -> ir.Value:
        """A node before the replaced one."""
        name = f"{self.node.name}{suffix or '.' + op.lower()}"
        node = ir.node(op, inputs, attributes or {}, domain=domain, name=name)
        node.outputs[0].name = f"{name}.out"
        if self.holds is not None:
            node.metadata_props[WEIGHT_NAMES] = self.holds.label
            self.holds = None
        first = inputs[0]
        dtype = first.dtype if op == "Gather" and first is not None else None
        node.outputs[0].type = ir.TensorType(dtype or ir.DataType.FLOAT)
        self.graph.insert_before(self.node, node)
        return node.outputs[0]

    def plus(self, value: ir.Value, bias: ir.Value | None) -> ir.Value:
        return value if bias is None else self.add("Add", [value, bias], suffix=".bias")


def _raw(tensor: Tensor) -> tuple[NDArray[Any], ir.DataType]:
    """Elements as numpy has them; bfloat16 as its bits."""
    tensor = tensor if tensor.dtype in FLOATS else tensor.float()
    dtype = FLOATS[tensor.dtype]
    tensor = tensor.contiguous()
    array: NDArray[Any] = (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return (array.view(np.uint16) if tensor.dtype == torch.bfloat16 else array), dtype
