"""Rewrites that change no result and let ONNX Runtime find its integer kernels.

1. Constant nodes become initializers; Identity and Dropout vanish.
2. BatchNormalization after a Conv is folded into its weights.
3. ReduceMean over the space of an image becomes GlobalAveragePool, which has an integer kernel.
4. What nothing reads is dropped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import (
    IdentityEliminationPass,
    LiftConstantsToInitializersPass,
    RemoveInitializersFromInputsPass,
    RemoveUnusedNodesPass,
)

from squeeze.formats.onnx_graph import constant, input_at, producer


def simplify(model: ir.Model) -> None:
    """Apply all of them, in place."""
    LiftConstantsToInitializersPass(size_limit=0)(model)
    for node in list(model.graph):
        if node.op_type == "Dropout" and not node.outputs[0].is_graph_output():
            _bypass(node)
        elif node.op_type == "BatchNormalization":
            fold_batch_norm(node)
        elif node.op_type == "ReduceMean":
            mean_to_pool(node)
    IdentityEliminationPass()(model)
    drop_unused(model)


def fold_batch_norm(node: ir.Node) -> None:
    """Fold one BatchNormalization into the Conv before it, where that is possible."""
    conv = producer(node.inputs[0])
    if conv is None or conv.op_type != "Conv" or len(conv.outputs[0].uses()) != 1:
        return
    tensors = [constant(value) for value in (conv.inputs[1], *node.inputs[1:5])]
    if any(tensor is None for tensor in tensors) or node.graph is None:
        return
    weight, gamma, beta, mean, variance = (tensor.numpy() for tensor in tensors if tensor is not None)
    bias = constant(input_at(conv, 2))
    factor = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    shift = beta + ((bias.numpy() if bias is not None else 0) - mean) * factor
    folded = (weight * factor.reshape(-1, *[1] * (weight.ndim - 1))).astype(weight.dtype)
    set_weights(conv, folded, shift.astype(weight.dtype))
    _bypass(node)


def set_weights(node: ir.Node, weight: np.ndarray[Any, Any], bias: np.ndarray[Any, Any]) -> None:
    """Give a node weights of its own, so that a node which shared the old ones keeps them."""
    assert node.graph is not None
    assert isinstance(node.graph, ir.Graph)
    node.resize_inputs(3)
    for index, suffix, array in ((1, "weight", weight), (2, "bias", bias)):
        node.replace_input_with(index, initializer(node.graph, f"{node.name}.{suffix}", array))


def mean_to_pool(node: ir.Node) -> None:
    """ReduceMean over both image axes to GlobalAveragePool (+ Flatten where the axes are dropped)."""
    source, graph = node.inputs[0], node.graph
    axes = constant(input_at(node, 1))
    numbers = axes.numpy().tolist() if axes is not None else node.attributes.get_ints("axes", [])
    if source is None or source.shape is None or len(source.shape) != 4 or not isinstance(graph, ir.Graph):
        return
    if {number % 4 for number in numbers} != {2, 3}:
        return
    old = node.outputs[0]
    pool = ir.node("GlobalAveragePool", [source], name=node.name)
    last = pool.outputs[0]
    last.shape, last.type = ir.Shape([*source.shape[:2], 1, 1]), old.type
    new = [pool]
    if not node.attributes.get_int("keepdims", 1):
        new.append(ir.node("Flatten", [last], {"axis": 1}, name=f"{node.name}.flatten"))
        last.name, last = f"{old.name}.pooled", new[-1].outputs[0]
        last.shape, last.type = old.shape, old.type
    ir.convenience.replace_nodes_and_values(graph, node, [node], new, [old], [last])


def drop_unused(model: ir.Model) -> None:
    """Remove unread nodes and initializers, and inputs that old files list for weights."""
    RemoveInitializersFromInputsPass()(model)
    RemoveUnusedNodesPass()(model)


def initializer(graph: ir.Graph, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
    """A new initializer; another one of that name is replaced where nothing reads it, else the name is counted up."""
    stem, count = name, 1
    outputs = {value.name for node in graph for value in node.outputs}
    while name in outputs or (name in graph.initializers and graph.initializers[name].uses()):
        name, count = f"{stem}_{count}", count + 1
    value = ir.val(name, const_value=ir.Tensor(array, name=name))
    graph.initializers.pop(name, None)
    graph.register_initializer(value)
    return value


def _bypass(node: ir.Node) -> None:
    source, graph = node.inputs[0], node.graph
    assert source is not None
    assert isinstance(graph, ir.Graph)
    old = node.outputs[0]
    ir.convenience.replace_all_uses_with(old, source, replace_graph_outputs=True)
    graph.remove(node, safe=True)
