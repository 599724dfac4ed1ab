"""Sums that a norm reads become one node with the norm, which also gives the sum to whoever else reads it."""

from __future__ import annotations

import onnx_ir as ir

from squeeze.formats.onnx_graph import producer
from squeeze.writers.decoder.graph import CONTRIB

NORM, FUSED = "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"


def fuse_residuals(graph: ir.Graph) -> None:
    """Replace each pair, in place."""
    for norm in [node for node in graph if node.op_type == NORM]:
        add = producer(norm.inputs[0])
        if add is not None and add.op_type == "Add" and _fits(add):
            _fuse(graph, add, norm)


def _fits(add: ir.Node) -> bool:
    """Two summands of one shape with three axes, as the operator takes them."""
    shapes = [value.shape if value is not None else None for value in add.inputs]
    return shapes[0] is not None and shapes[0] == shapes[1] == add.outputs[0].shape and len(shapes[0]) == 3


def _fuse(graph: ir.Graph, add: ir.Node, norm: ir.Node) -> None:
    """The fused node stands where the sum stood: others may read the sum before the norm's place."""
    total, normed = add.outputs[0], norm.outputs[0]
    scale, attributes = norm.inputs[1], {"epsilon": norm.attributes["epsilon"].as_float()}
    fused = ir.node(FUSED, [*add.inputs, scale], attributes, domain=CONTRIB, num_outputs=4, name=norm.name)
    sums = [fused.outputs[0], fused.outputs[3]]
    ir.convenience.replace_nodes_and_values(graph, add, [norm, add], [fused], [normed, total], sums)
    for place in (1, 2):
        fused.outputs[place].name = ""
