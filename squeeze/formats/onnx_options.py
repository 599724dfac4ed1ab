"""What nodes of ONNX graphs ask of their operators, read once for all writers of phones' files."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from squeeze.errors import ModelError
from squeeze.formats.onnx_attributes import attributes, numbers
from squeeze.formats.onnx_graph import constant

SOFTMAX_OF_ONE_AXIS = 13  # the first operator set in which it does not flatten


def require_softmax_of_one_axis(node: ir.Node) -> None:
    """Raise ``ModelError`` where the node's operator set has Softmax run over several axes."""
    opset = SOFTMAX_OF_ONE_AXIS if node.graph is None else node.graph.opset_imports.get("", SOFTMAX_OF_ONE_AXIS)
    if opset < SOFTMAX_OF_ONE_AXIS:
        what = f"Softmax of opset {opset} runs over all axes from its own on"
        raise ModelError(f"{node.name}: {what}; opset {SOFTMAX_OF_ONE_AXIS} or later would do")


def clip_ends(node: ir.Node) -> tuple[float | None, float | None]:
    """Lowest and highest number of a Clip, None: no bound; raises ``ModelError`` where one is computed at run time."""
    values = [*node.inputs[1:3], None, None][:2]
    ends = [constant(value) for value in values]
    if any(value is not None and end is None for value, end in zip(values, ends, strict=True)):
        raise ModelError(f"{node.name}: the bounds of Clip are computed at run time; constants would do")
    low, high = (None if end is None else float(end.numpy().reshape(())) for end in ends)
    return low, high


def mean_axes(node: ir.Node, rank: int) -> tuple[list[int], bool]:
    """The axes that a ReduceMean or GlobalAveragePool averages, and whether they stay, of size 1."""
    if node.op_type == "GlobalAveragePool":
        return list(range(2, rank)), True
    return numbers(node, 1, "axes") or list(range(rank)), bool(attributes(node).get("keepdims", 1))


def slice_cuts(node: ir.Node) -> list[tuple[int, int, int, int]]:
    """Axis, start, end and step of each cut of a Slice; raises ``ModelError`` where it runs backwards."""
    starts, ends = numbers(node, 1, "starts") or [], numbers(node, 2, "ends") or []
    axes, steps = numbers(node, 3, "axes") or list(range(len(starts))), numbers(node, 4, "steps") or [1] * len(starts)
    if min(steps, default=1) < 1:
        raise ModelError(f"{node.name}: Slice with a step of {min(steps)}; steps above 0 would do")
    return list(zip(axes, starts, ends, steps, strict=True))


def sliced_places(node: ir.Node, sizes: Sequence[int]) -> list[range]:
    """Of each axis, the places that a Slice leaves of an input of these sizes."""
    places = [range(size) for size in sizes]
    for axis, start, end, step in slice_cuts(node):
        places[axis % len(sizes)] = range(sizes[axis % len(sizes)])[start:end:step]
    return places
