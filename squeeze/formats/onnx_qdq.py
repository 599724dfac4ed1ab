"""Write a quantized graph: integer weights, and QuantizeLinear / DequantizeLinear around what runs on integers.

The pairs are ONNX's way to say "this runs on integers" without naming a kernel; ONNX Runtime replaces them with its
integer kernels when it loads the file. Which values, ranges and weights is decided before: see ``onnx_scheme``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from squeeze.algorithms.affine import Grid, QuantizedTensor
from squeeze.formats.onnx_layer import LAYER_OPS, output_axis, stored_form
from squeeze.formats.onnx_scheme import Scheme, clip_bounds
from squeeze.formats.onnx_simplify import drop_unused, initializer

LARGEST_BIAS = 2**30  # half of int32, so that the sum of products has room beside it


@dataclass(frozen=True)
class LayerWeights:
    """A layer after quantization: the weight ``[out, in]`` on its grid, the bias ``[out]`` still real."""

    weight: QuantizedTensor
    bias: Tensor | None


def write_qdq(model: ir.Model, scheme: Scheme, grids: dict[str, Grid], weights: dict[str, LayerWeights]) -> None:
    """Turn a float graph into a quantized one, in place.

    Args:
        grids: Of every root of the scheme.
        weights: Of every layer of the scheme.
    """
    writer = _Writer(model.graph, scheme, grids)
    nodes = list(model.graph)
    for value in model.graph.inputs:
        writer.quantize(value, nodes[0], before=True)
    for node in nodes:
        if str(node.name) in scheme.folded:
            continue
        source = node.inputs[0]
        writer.take_integers(node)
        if str(node.name) in scheme.layers and source is not None:
            writer.store_weights(node, weights[str(node.name)], grids[scheme.root[str(source.name)]].scale)
        writer.give_integers(node)
    writer.finish()
    drop_unused(model)


def hold_bias(weight: QuantizedTensor, bias: Tensor | None, input_scale: float) -> QuantizedTensor:
    """Coarsen the scales of channels whose bias would not fit into int32: dead channels with weights of 1e-12."""
    if bias is None:
        return weight
    least = bias.abs().double() / (input_scale * LARGEST_BIAS)
    least = least[:, None] if len(weight.scale) > 1 else least.max().reshape(1, 1)
    if not bool((weight.scale.abs() < least).any()):
        return weight
    scale = torch.maximum(weight.scale.double().abs(), least).float()
    q = torch.round(weight.dequantize() / scale).clamp(-127, 127).to(torch.int8)
    return QuantizedTensor(q, scale, weight.zero_point, weight.bits, weight.group_size, True)


class _Writer:
    def __init__(self, graph: ir.Graph, scheme: Scheme, grids: dict[str, Grid]) -> None:
        self.graph, self.scheme, self.grids = graph, scheme, grids
        self.integers: dict[str, ir.Value] = {}  # float value's name -> the value that holds its integers
        self.reals: dict[str, ir.Value] = {}  # float value's name -> what DequantizeLinear gives for it
        self.scales: dict[str, list[ir.Value]] = {}  # root -> [scale, zero_point]

    def quantize(self, value: ir.Value, place: ir.Node, before: bool = False) -> None:
        """Put QuantizeLinear behind a float value that has a grid of its own."""
        name = str(value.name)
        if self.scheme.root.get(name) != name or name in self.integers:
            return
        node = ir.node("QuantizeLinear", [value, *self._grid(name)], name=f"{name}.quantize")
        self._shape(node.outputs[0], value, f"{name}.integers", self._type(name))
        (self.graph.insert_before if before else self.graph.insert_after)(place, node)
        self.integers[name] = node.outputs[0]

    def take_integers(self, node: ir.Node) -> None:
        """Feed a node from the integers: as they are where it only moves them, dequantized otherwise."""
        moves = str(node.name) in self.scheme.moving
        for index, value in enumerate(node.inputs):
            if value is None or value.name not in self.scheme.root:
                continue
            if value.name not in self.integers:  # computed by a float node: quantize where it is first needed
                self.quantize(value, node, before=True)
            source = self.integers[value.name] if moves else self._real(value.name, node)
            if index == 0 and str(node.name) in self.scheme.skipped and node.op_type in LAYER_OPS:
                source = self._kept_float(source, node, self.grids[self.scheme.root[value.name]])
            node.replace_input_with(index, source)
        if moves and node.op_type == "Pad":
            _, zero_point = self._grid(self.scheme.root[str(node.outputs[0].name)])
            node.resize_inputs(max(3, len(node.inputs)))
            node.replace_input_with(2, zero_point)

    def give_integers(self, node: ir.Node) -> None:
        """Note or make the integers of a node's output."""
        out = node.outputs[0]
        if str(node.name) in self.scheme.moving:
            root = self.scheme.root[str(out.name)]
            self.integers[str(out.name)] = out
            out.type = ir.TensorType(self._type(root))
        elif str(node.name) in self.scheme.layers or str(node.name) in self.scheme.combining:
            activation = self._folded_reader(node)
            if activation is None:
                self.quantize(out, node)
            else:
                self._fold(node, activation)

    def store_weights(self, node: ir.Node, layer: LayerWeights, input_scale: float) -> None:
        """Integer initializers with DequantizeLinear in place of the float ones."""
        name = str(node.name)
        weight = hold_bias(layer.weight, layer.bias, input_scale)
        per_channel = len(weight.scale) > 1
        scale = weight.scale.reshape(-1).numpy() if per_channel else weight.scale.numpy().reshape(())
        axis = {"axis": output_axis(node)} if per_channel else {}
        node.replace_input_with(1, self._stored(node, f"{name}.weight", stored_form(node, weight.q), scale, axis))
        if layer.bias is not None:
            step = scale.astype(np.float32) * np.float32(input_scale)
            q = np.rint(layer.bias.double().numpy() / step.astype(np.float64)).astype(np.int32)
            node.resize_inputs(3)
            axis = {"axis": 0} if per_channel else {}
            node.replace_input_with(2, self._stored(node, f"{name}.bias", q, step, axis))

    def finish(self) -> None:
        """Graph outputs stay floats under their old names."""
        for index, value in enumerate(list(self.graph.outputs)):
            if value.name in self.integers:
                name, last = str(value.name), self.graph[-1]
                real = self._real(name, last, after=True)
                value.name = f"{name}.float" if value is not self.integers[name] else f"{name}.integers"
                real.name = name
                self.graph.outputs[index] = real

    def _fold(self, node: ir.Node, activation: ir.Node) -> None:
        """Drop a Relu or Clip that the grid's own ends perform; else keep it before QuantizeLinear."""
        out = activation.outputs[0]
        grid, bounds = self.grids[str(out.name)], clip_bounds(activation)
        assert bounds is not None
        implied = grid.low >= bounds[0] - grid.scale / 2 and grid.high <= bounds[1] + grid.scale / 2
        if not implied:
            self.quantize(out, activation)
            return
        output, name = node.outputs[0], str(out.name)
        ir.convenience.replace_all_uses_with(out, output, replace_graph_outputs=True)
        self.graph.remove(activation, safe=True)
        output.name = name
        self.quantize(output, node)

    def _real(self, name: str, place: ir.Node, after: bool = False) -> ir.Value:
        if name not in self.reals:
            source = self.integers[name]
            node = ir.node("DequantizeLinear", [source, *self._grid(self.scheme.root[name])], name=f"{name}.dequantize")
            self._shape(node.outputs[0], source, f"{name}.dequantized", ir.DataType.FLOAT)
            (self.graph.insert_after if after else self.graph.insert_before)(place, node)
            self.reals[name] = node.outputs[0]
        return self.reals[name]

    def _kept_float(self, real: ir.Value, node: ir.Node, grid: Grid) -> ir.Value:
        """A Clip that clips nothing: ONNX Runtime quantizes any Conv or Gemm that it finds between such pairs."""
        bounds = [
            initializer(self.graph, f"{node.name}.input.{end}", np.array(value, dtype=np.float32))
            for end, value in (("low", grid.low), ("high", grid.high))
        ]
        clip = ir.node("Clip", [real, *bounds], name=f"{node.name}.input")
        self._shape(clip.outputs[0], real, f"{node.name}.input.float", ir.DataType.FLOAT)
        self.graph.insert_before(node, clip)
        return clip.outputs[0]

    def _stored(
        self, node: ir.Node, name: str, q: np.ndarray[Any, Any], scale: np.ndarray[Any, Any], attributes: dict[str, int]
    ) -> ir.Value:
        """An integer initializer seen through DequantizeLinear."""
        parts = [
            initializer(self.graph, f"{name}.integers", q),
            initializer(self.graph, f"{name}.scale", scale.astype(np.float32)),
        ]
        if node.op_type != "Conv":  # the other kernels are only found when the zeros are spelled out
            parts.append(initializer(self.graph, f"{name}.zero_point", np.zeros(scale.shape, dtype=q.dtype)))
        dequantize = ir.node("DequantizeLinear", parts, attributes, name=f"{name}.dequantize")
        out = dequantize.outputs[0]
        out.name, out.shape, out.type = f"{name}.dequantized", ir.Shape(q.shape), ir.TensorType(ir.DataType.FLOAT)
        self.graph.insert_before(node, dequantize)
        return out

    def _grid(self, root: str) -> list[ir.Value]:
        if root not in self.scales:
            grid = self.grids[root]
            zero_point = np.array(grid.zero_point, dtype=np.int8 if grid.signed else np.uint8)
            self.scales[root] = [
                initializer(self.graph, f"{root}.scale", np.array(grid.scale, dtype=np.float32)),
                initializer(self.graph, f"{root}.zero_point", zero_point),
            ]
        return self.scales[root]

    def _type(self, root: str) -> ir.DataType:
        return ir.DataType.INT8 if self.grids[root].signed else ir.DataType.UINT8

    def _shape(self, value: ir.Value, like: ir.Value, name: str, dtype: ir.DataType) -> None:
        value.name, value.shape, value.type = name, like.shape, ir.TensorType(dtype)

    def _folded_reader(self, node: ir.Node) -> ir.Node | None:
        readers = [use.node for use in node.outputs[0].uses()]
        return readers[0] if len(readers) == 1 and str(readers[0].name) in self.scheme.folded else None
