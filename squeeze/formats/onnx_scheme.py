"""Choose the values of a float graph that become integers, so that ONNX Runtime runs integer kernels.

1. A selected layer (Conv, Gemm, MatMul with stored weights) takes integers in and gives integers out.
2. A Relu or Clip that alone reads a layer's output becomes the range of that output.
3. Add, Mul, Concat and the average pools run on integers where all their inputs are integers.
4. MaxPool, Reshape, Slice, Pad and their like only move integers: output and input share one grid.
5. A layer whose result nobody needs as integers (the logits) gives floats.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from squeeze.formats.onnx_graph import constant, input_at
from squeeze.formats.onnx_layer import LAYER_OPS, why_not

COMBINING_OPS = frozenset({"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool"})
MOVING_OPS = frozenset({"MaxPool", "Reshape", "Flatten", "Slice", "Pad", "Transpose", "Squeeze", "Unsqueeze"})
INTEGER_OUT_OPS = frozenset({"Conv"})  # kernels that cannot give floats


@dataclass
class Scheme:
    """What becomes of the nodes and values of a graph; names throughout.

    Args:
        layers: Nodes whose weights become integers.
        combining: Nodes of rule 3.
        moving: Nodes of rule 4.
        folded: Relu and Clip nodes of rule 2.
        root: Value to the value whose grid it has; keys are all values that exist as integers.
        skipped: Node to the reason why it stays float.
    """

    layers: list[str] = field(default_factory=list)
    combining: list[str] = field(default_factory=list)
    moving: list[str] = field(default_factory=list)
    folded: list[str] = field(default_factory=list)
    root: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def roots(self) -> list[str]:
        """Values that need a range, in the order in which they are computed."""
        return list(dict.fromkeys(self.root.values()))


def plan_scheme(graph: ir.Graph, left_out: dict[str, str]) -> Scheme:
    """Decide for every node; ``left_out`` holds the layers that stay float for a reason of the caller's."""
    scheme = Scheme(skipped=dict(left_out))
    for node in graph:
        if node.op_type in LAYER_OPS:
            _plan_layer(node, scheme)
        elif node.op_type in COMBINING_OPS:
            _plan_combining(node, scheme)
        elif node.op_type in MOVING_OPS and _is_integer(node.inputs[0], scheme) and _moves_exactly(node):
            scheme.moving.append(str(node.name))
            scheme.root[_name(node.outputs[0])] = scheme.root[_name(node.inputs[0])]
    return scheme


def activation_of(node: ir.Node) -> ir.Node | None:
    """The Relu or Clip that alone reads the node's output."""
    uses = node.outputs[0].uses()
    if len(uses) != 1 or node.outputs[0].is_graph_output():
        return None
    reader = next(iter(uses)).node
    if reader.op_type == "Relu":
        return reader
    return reader if reader.op_type == "Clip" and clip_bounds(reader) is not None else None


def clip_bounds(node: ir.Node) -> tuple[float, float] | None:
    """What a Relu or Clip lets through; None for a Clip whose bounds are computed or exclude zero."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    bounds = [-np.inf, np.inf]
    for index, value in enumerate(node.inputs[1:3]):
        tensor = constant(value)
        if value is not None and tensor is None:
            return None
        if tensor is not None:
            bounds[index] = float(tensor.numpy())
    return (bounds[0], bounds[1]) if bounds[0] <= 0 <= bounds[1] else None


def _plan_layer(node: ir.Node, scheme: Scheme) -> None:
    name = str(node.name)
    reason = scheme.skipped.get(name) or why_not(node)
    if reason is not None:
        scheme.skipped[name] = reason
        return
    source = _name(node.inputs[0])
    scheme.root.setdefault(source, source)
    scheme.layers.append(name)
    if node.op_type in INTEGER_OUT_OPS or _needed_as_integers(node):
        _give_integers(node, scheme)


def _plan_combining(node: ir.Node, scheme: Scheme) -> None:
    if all(_is_integer(value, scheme) for value in node.inputs):
        scheme.combining.append(str(node.name))
        _give_integers(node, scheme)
    elif any(_is_integer(value, scheme) for value in node.inputs):
        scheme.skipped[str(node.name)] = "not all of its inputs are integers"


def _give_integers(node: ir.Node, scheme: Scheme) -> None:
    activation = activation_of(node)
    if activation is not None:
        scheme.folded.append(str(activation.name))
    out = _name((activation or node).outputs[0])
    scheme.root[out] = out


def _needed_as_integers(node: ir.Node) -> bool:
    last = activation_of(node) or node
    takers = {use.node.op_type for use in last.outputs[0].uses()}
    return bool(takers & (set(LAYER_OPS) | COMBINING_OPS | MOVING_OPS))


def _moves_exactly(node: ir.Node) -> bool:
    """Padding with zero is padding with the zero point; MaxPool's indices and other paddings stay float."""
    if node.op_type == "Pad":
        value = input_at(node, 2)
        fill = constant(value)
        return value is None or (fill is not None and not np.any(fill.numpy()))
    return len(node.outputs) == 1


def _is_integer(value: ir.Value | None, scheme: Scheme) -> bool:
    return value is not None and _name(value) in scheme.root


def _name(value: ir.Value | None) -> str:
    assert value is not None
    assert value.name
    return value.name
