"""Products that read the same activations become one, with their weights one under the other; sums join their norms.

Queries, keys and values go on as they come, which is a form that fused attention takes; other products are cut apart
again. Fewer and larger products are faster, above all where a token is read at a time. A sum that a norm reads becomes
one node with it, which also gives the sum to whoever else reads it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from squeeze.formats.onnx_graph import producer
from squeeze.formats.onnx_simplify import initializer
from squeeze.writers.decoder.graph import CONTRIB
from squeeze.writers.decoder.weights import DOMAIN, LINEAR

ATTENTION = "GroupQueryAttention"
NORM, FUSED = "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"
Kind = Callable[[str], object]


def merge(graph: ir.Graph, kind: Kind) -> None:
    """Merge what may be merged, in place.

    Args:
        kind: Of a weight by its name, what must be equal for two of them to lie in one tensor; None: never.
    """
    for node in [node for node in graph if node.op_type == ATTENTION]:
        _pack_projections(graph, node, kind)
        _pass_whole(node)
    for first in [node for node in graph if _is_linear(node)]:
        if first.graph is not None:
            _share(graph, first, kind)


def _pack_projections(graph: ir.Graph, attention: ir.Node, kind: Kind) -> None:
    """q, k and v that are products of the same activations and that nobody else reads."""
    sources = map(producer, attention.inputs[:3])
    parts = [node for node in sources if node is not None and _is_linear(node)]
    alone = all(len(node.outputs[0].uses()) == 1 for node in parts)
    if len(parts) == 3 and alone and _alike(parts, kind):
        _pack(attention, _merged(graph, parts).outputs[0])
        for part in parts:
            graph.remove(part, safe=True)


def _pass_whole(attention: ir.Node) -> None:
    """q, k and v that are cut from one value go in uncut (Phi-3)."""
    cuts = map(producer, attention.inputs[:3])
    parts = [node for node in cuts if node is not None and node.op_type == "Slice"]
    if len(parts) < 3 or len({part.inputs[0] for part in parts}) > 1:
        return
    whole, end = parts[0].inputs[0], 0
    for part in parts:
        start, stop, axis, step = (int(value.const_value.numpy()[0]) for value in part.inputs[1:])  # type: ignore[union-attr]
        if (start, axis, step) != (end, 2, 1):
            return
        end = stop
    assert whole is not None
    if whole.shape is not None and whole.shape[2] == end:
        _pack(attention, whole)


def _share(graph: ir.Graph, first: ir.Node, kind: Kind) -> None:
    """Products of the activations that ``first`` reads, cut apart behind one product."""
    source = first.inputs[0]
    assert source is not None
    readers = {use.node for use in source.uses() if _is_linear(use.node) and use.node.graph is graph}
    parts = [node for node in graph if node in readers]
    if len(parts) < 2 or not _alike(parts, kind):
        return
    merged = _merged(graph, parts)
    rows = np.array([_rows(part) for part in parts], np.int64)
    sizes = initializer(graph, f"{merged.name}.sizes", rows)
    inputs, name = [merged.outputs[0], sizes], f"{merged.name}.split"
    split = ir.node("Split", inputs, {"axis": -1}, num_outputs=len(parts), name=name)
    cut_apart = [part.outputs[0] for part in parts]
    ir.convenience.replace_nodes_and_values(graph, merged, parts, [split], cut_apart, split.outputs)


def _merged(graph: ir.Graph, parts: list[ir.Node]) -> ir.Node:
    """One product before the first of them."""
    inputs = [parts[0].inputs[0]]
    if len(parts[0].inputs) > 1:
        inputs.append(_biases(graph, parts))
    names = "\n".join(part.attributes["weight"].as_string() for part in parts)
    attributes = {"weight": names, "rows": sum(map(_rows, parts)), "columns": parts[0].attributes["columns"].as_int()}
    name = "+".join([str(parts[0].name), *(str(part.name).rpartition(".")[2] for part in parts[1:])])
    node = ir.node(LINEAR, inputs, attributes, domain=DOMAIN, name=name)
    out, before = node.outputs[0], parts[0].outputs[0].shape
    out.name, out.type = f"{name}.out", ir.TensorType(ir.DataType.FLOAT)
    out.shape = ir.Shape([*list(before or ())[:-1], sum(map(_rows, parts))])
    graph.insert_before(parts[0], node)
    return node


def _biases(graph: ir.Graph, parts: list[ir.Node]) -> ir.Value:
    tensors = [part.inputs[1].const_value for part in parts]  # type: ignore[union-attr]
    joined = np.concatenate([tensor.numpy() for tensor in tensors if tensor is not None])
    return initializer(graph, "+".join(str(part.name) for part in parts) + ".bias", joined)


def _alike(parts: list[ir.Node], kind: Kind) -> bool:
    """One source, weights of one kind, all with a bias or none."""
    same_source = len({part.inputs[0] for part in parts}) == 1
    same_bias = len({len(part.inputs) for part in parts}) == 1
    if not same_source or not same_bias or any("\n" in part.attributes["weight"].as_string() for part in parts):
        return False
    known = [kind(part.attributes["weight"].as_string()) for part in parts]
    return known[0] is not None and all(other == known[0] for other in known)


def _pack(attention: ir.Node, whole: ir.Value) -> None:
    attention.replace_input_with(0, whole)
    attention.replace_input_with(1, None)
    attention.replace_input_with(2, None)


def _is_linear(node: ir.Node) -> bool:
    return node.domain == DOMAIN and node.op_type == LINEAR


def _rows(node: ir.Node) -> int:
    return node.attributes["rows"].as_int()


def fuse_residuals(graph: ir.Graph) -> None:
    """Replace each pair of a sum and its norm, in place."""
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
