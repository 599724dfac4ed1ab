"""A graph that answers one example, without an axis that counts examples: given such an axis, of size 1.

Inputs lose the axis right behind the door and outputs get it right before the other, under the names that they had;
nothing between is touched. Both operators only relabel a tensor: they cost nothing.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from squeeze.formats.onnx_simplify import initializer

AXES_ARE_INPUTS = 13  # from this opset on; before, Squeeze and Unsqueeze carry their axes as an attribute
INSIDE = "/one_example"  # behind the name of what was an input or output


def with_leading_axis(model: ir.Model) -> ir.Model:
    """A copy whose inputs and outputs are ``[1, ...]`` of what they were."""
    copy = model.clone()
    graph = copy.graph
    axes = _axes(copy)
    fed = [index for index, value in enumerate(graph.inputs) if value.name not in graph.initializers]
    first = graph[0]
    for index in fed:
        inner = graph.inputs[index]
        graph.inputs[index] = outer = _outside(inner)
        graph.insert_before(first, _node("Squeeze", outer, inner, axes))
    for index, inner in enumerate(list(graph.outputs)):
        graph.outputs[index] = outer = _outside(inner)
        graph.append(_node("Unsqueeze", inner, outer, axes))
    return copy


def _axes(model: ir.Model) -> ir.Value | None:
    """The constant ``[0]``; None where an opset has it as an attribute."""
    if model.opset_imports.get("", 0) < AXES_ARE_INPUTS:
        return None
    return initializer(model.graph, f"axis{INSIDE}", np.array([0], np.int64))


def _outside(inner: ir.Value) -> ir.Value:
    """What takes the name of an input or output, one axis longer; the value itself goes on under another."""
    name = inner.name or ""
    inner.name = f"{name}{INSIDE}"
    shape = None if inner.shape is None else ir.Shape([1, *inner.shape])
    return ir.Value(name=name, shape=shape, type=inner.type)


def _node(kind: str, source: ir.Value, result: ir.Value, axes: ir.Value | None) -> ir.Node:
    name = f"{kind.lower()}{INSIDE}/{(source if kind == 'Squeeze' else result).name}"
    if axes is None:
        return ir.node(kind, [source], {"axes": [0]}, outputs=[result], name=name)
    return ir.node(kind, [source, axes], outputs=[result], name=name)
