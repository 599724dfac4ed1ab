"""What ONNX nodes and inputs say beside their values, as plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from squeeze.errors import ModelError
from squeeze.formats.onnx_graph import constant, input_at


def attributes(node: ir.Node) -> dict[str, Any]:
    """A node's attributes as plain values."""
    return {name: attribute.value for name, attribute in node.attributes.items()}


def numbers(node: ir.Node, index: int, attribute: str) -> list[int] | None:
    """A list of integers, which older operator sets have as an attribute and newer ones as a constant input.

    Raises:
        ModelError: it is computed at run time.
    """
    value = input_at(node, index)
    if value is None:
        values = attributes(node).get(attribute)
        return None if values is None else [int(number) for number in values]
    tensor = constant(value)
    if tensor is None:
        raise ModelError(f"{node.name}: the {attribute} of {node.op_type} are computed at run time; constants would do")
    return [int(number) for number in tensor.numpy().reshape(-1)]


def padding(node: ir.Node) -> list[tuple[int, int]]:
    """How many places a convolution or a pooling adds before and behind each axis; empty: none are said.

    Raises:
        ModelError: the padding is computed from the input's size (``auto_pad``).
    """
    options = attributes(node)
    if options.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise ModelError(f"{node.name}: auto_pad {options['auto_pad']} of {node.op_type}; explicit pads would do")
    pads = [int(number) for number in options.get("pads", ())]
    half = len(pads) // 2
    return [(pads[axis], pads[half + axis]) for axis in range(half)]


def resolved_padding(
    node: ir.Node, sizes: Sequence[int], spans: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    """The same for an input of known ``sizes``, of whatever ``auto_pad``.

    Args:
        spans: Places that a window reaches over, by axis, dilations included.
    """
    automatic = attributes(node).get("auto_pad", "NOTSET")
    if automatic in ("NOTSET", "VALID"):
        return padding(node) or [(0, 0)] * len(sizes)
    pads = []
    for size, span, stride in zip(sizes, spans, strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + span - size, 0)
        less, more = total // 2, total - total // 2
        pads.append((less, more) if automatic == "SAME_UPPER" else (more, less))
    return pads


def example_sizes(value: ir.Value) -> list[int]:
    """The sizes of one example of a graph's input, less the first; raises ``ModelError`` where one is free."""
    sizes = [*(value.shape or ())][1:]
    if any(not isinstance(size, int) for size in sizes):
        what = "has a free size, and a phone's file is made for one"
        raise ModelError(f"input '{value.name}' {what}; input: of the plan's model would name it")
    return [int(size) for size in sizes]


def value_sizes(value: ir.Value) -> tuple[int, ...]:
    """A value's shape for one example; raises ``ModelError`` where a size is not known before it runs."""
    shape = None if value.shape is None else tuple(value.shape)
    if shape is None or any(not isinstance(size, int) for size in shape):
        raise ModelError(f"the shape of '{value.name}' is not known before it runs; a phone's file is made for one")
    return tuple(int(size) for size in shape)  # type: ignore[arg-type]  # asked above
