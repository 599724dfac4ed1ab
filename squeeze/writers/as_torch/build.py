"""From an ONNX graph to a :class:`Network`: the same arithmetic on the same scales and integers.

QuantizeLinear and DequantizeLinear become torch's own operators for the same; weights keep their integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.nn import functional

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import ModelError
from squeeze.formats.grid_kind import GridKind
from squeeze.formats.onnx_attributes import attributes, example_sizes
from squeeze.formats.onnx_graph import STANDARD, constant, fed_inputs, holds_stored_integers
from squeeze.formats.onnx_layer import LAYER_OPS, real_bias, weight_array, weight_matrix
from squeeze.formats.onnx_step import Step, step_of
from squeeze.writers.as_torch.integers import IntegerWeight, dequantize, quantize
from squeeze.writers.as_torch.network import Network, Operation, Operator, Place, StoredArray, WeightedLayer
from squeeze.writers.as_torch.operators import OPERATORS, spatial_pads

CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d}


def holds(kind: GridKind) -> str | None:
    """Why integer kernels of phones cannot multiply with such a grid; None where they can."""
    if (kind.bits, kind.group_size, kind.symmetric) == (8, None, True):
        return None
    groups = "" if kind.group_size is None else f" in groups of {kind.group_size}"
    what = f"weights of {kind.bits} bits{groups}{'' if kind.symmetric else ' with zero points'}"
    return f"{what}; its integer kernels take bits: 8, group_size: null, symmetric: true"


def as_torch(model: ir.Model, grids: Mapping[str, QuantizedTensor]) -> Network:
    """The same arithmetic in torch.

    Args:
        model: Its layers' weights as floats; not changed.
        grids: Of the layers whose weights are integers, by name.

    Raises:
        ModelError: what has no form in torch here, named with its layer.
    """
    builder = _Builder(model.graph, grids)
    for node in model.graph:
        builder.add(node)
    outputs = [str(value.name) for value in model.graph.outputs]
    return Network(builder.children, builder.places, builder.inputs, outputs)


class _Builder:
    def __init__(self, graph: ir.Graph, grids: Mapping[str, QuantizedTensor]) -> None:
        self.grids = grids
        self.inputs = [str(value.name) for value in fed_inputs(graph)]
        self.steps: dict[str, Step] = {}  # integer values, by name
        self.real: dict[str, Step] = {}  # what DequantizeLinear gives, by name
        self.children: list[nn.Module] = []
        self.places: list[Place] = []

    def add(self, node: ir.Node) -> None:
        if node.domain not in STANDARD or len(node.outputs) != 1:
            raise ModelError(f"{node.name}: {node.domain}{node.op_type} has no form in torch here; exclude its layer")
        if node.op_type == "Constant" or holds_stored_integers(node):
            return
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            self._convert(node)
        elif node.op_type in LAYER_OPS and (constant(node.inputs[1]) is not None or str(node.name) in self.grids):
            self._layer(node)
        elif node.op_type in OPERATORS:
            self._operator(node)
        else:
            known = ", ".join(sorted({*OPERATORS, *LAYER_OPS}))
            raise ModelError(f"{node.name}: {node.op_type} has no form in torch here; {known} have")

    def _convert(self, node: ir.Node) -> None:
        step, out = step_of(node), str(node.outputs[0].name)
        if node.op_type == "QuantizeLinear":
            self.steps[out] = step
            self._append(node, Operator(partial(quantize, step)))
        else:
            self.real[out] = step
            self._append(node, Operator(partial(dequantize, step)))

    def _operator(self, node: ir.Node) -> None:
        """One operator; moves of integers act on their dequantized values, as integer kernels expect."""
        function = OPERATORS[node.op_type](node)
        step = self.steps.get(str(node.inputs[0].name)) if node.inputs and node.inputs[0] else None
        if step is not None:
            self.steps[str(node.outputs[0].name)] = step
            function = _moved(function, step)
        reads = [value for value in node.inputs if value is not None]
        if node.op_type not in ("Add", "Sub", "Mul", "Div", "Concat"):
            reads = reads[:1]
        self._append(node, Operator(function), reads)

    def _layer(self, node: ir.Node) -> None:
        name, source = str(node.name), str(node.inputs[0].name)  # type: ignore[union-attr]
        weight, step = self._weight(node), self.real.get(source)
        integer = isinstance(weight, IntegerWeight)
        if integer and step is None:
            what = "its weights are integers and its inputs are not; quantize_static gives both"
            raise ModelError(f"{name}: {what}")
        bias, dynamic = real_bias(node), integer and not self._is_quantized(node)
        layer = WeightedLayer(_operation(node), weight, bias, dynamic)
        self._append(node, layer, [node.inputs[0]])

    def _is_quantized(self, node: ir.Node) -> bool:
        """Whether the layer's output, or what an activation makes of it, is rounded to integers."""
        readers = [use.node for use in node.outputs[0].uses()]
        if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip"):
            readers = [use.node for use in readers[0].outputs[0].uses()]
        return bool(readers) and all(reader.op_type == "QuantizeLinear" for reader in readers)

    def _weight(self, node: ir.Node) -> IntegerWeight | nn.Parameter:
        grid = self.grids.get(str(node.name))
        shape = weight_array(node).shape
        shape = tuple(shape) if node.op_type == "Conv" else tuple(weight_matrix(node).shape)
        if grid is None:
            return nn.Parameter(weight_matrix(node).reshape(shape), requires_grad=False)
        if reason := holds(GridKind.of(grid)):
            raise ModelError(f"{node.name}: {reason}")
        return IntegerWeight(grid, shape)

    def _append(self, node: ir.Node, child: nn.Module, reads: Sequence[ir.Value | None] | None = None) -> None:
        names = tuple(self._read(value) for value in (reads if reads is not None else [node.inputs[0]]))
        self.children.append(child)
        self.places.append(Place(str(node.name), names, str(node.outputs[0].name)))

    def _read(self, value: ir.Value | None) -> str:
        """The name of a computed value; a stored one becomes a child of its own."""
        assert value is not None
        name, tensor = str(value.name), constant(value)
        if tensor is not None and name not in {place.writes for place in self.places}:
            self.children.append(StoredArray(torch.from_numpy(np.array(tensor.numpy()))))
            self.places.append(Place(name, (), name))
        return name


def _moved(function: Operation, step: Step) -> Operation:
    return lambda q: quantize(step, function(dequantize(step, q)))


def _operation(node: ir.Node) -> Operation:
    """What a layer does with input, weight and bias."""
    attrs = attributes(node)
    if node.op_type == "MatMul":
        return functional.linear
    if node.op_type == "Gemm":
        if any(attrs.get(name, right) != right for name, right in (("alpha", 1.0), ("beta", 1.0), ("transA", 0))):
            raise ModelError(f"{node.name}: a Gemm with alpha, beta or transA has no form in torch here")
        return functional.linear
    axes = len(weight_array(node).shape) - 2
    if axes not in CONVOLUTIONS:
        raise ModelError(f"{node.name}: a convolution over {axes} axes; one or two would do")
    pads, even = spatial_pads(node)
    options: dict[str, Any] = {
        "stride": tuple(attrs.get("strides", (1,) * axes)),
        "dilation": tuple(attrs.get("dilations", (1,) * axes)),
        "groups": int(attrs.get("group", 1)),
    }
    convolve = CONVOLUTIONS[axes]
    if even:
        padding = tuple(reversed(pads[::2])) or (0,) * axes
        return lambda x, weight, bias: convolve(x, weight, bias, padding=padding, **options)
    return lambda x, weight, bias: convolve(functional.pad(x, pads), weight, bias, **options)


def examples(model: ir.Model) -> Iterator[Tensor]:
    """Zeros for one example of each input; raises ``ModelError`` where a size is not known."""
    for value in fed_inputs(model.graph):
        dtype = getattr(torch, str((value.dtype or ir.DataType.FLOAT).numpy()))
        yield torch.zeros(1, *example_sizes(value), dtype=dtype)
