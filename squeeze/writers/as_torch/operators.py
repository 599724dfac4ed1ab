"""ONNX operators without weights as torch functions, one example at a time: every size is known.

Each entry takes the node's constants and gives a function of its computed inputs. What is not in the table is refused
by name: an operator that is guessed would be a wrong answer on a phone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from squeeze.errors import ModelError
from squeeze.formats.onnx_attributes import attributes, numbers, padding
from squeeze.formats.onnx_graph import constant, input_at
from squeeze.formats.onnx_options import clip_ends, require_softmax_of_one_axis, slice_cuts

Function = Callable[..., Tensor]
Build = Callable[[ir.Node], Function]


def spatial_pads(node: ir.Node) -> tuple[list[int], bool]:
    """Padding as torch's ``pad`` takes it, last axis first, and whether both ends of each axis get the same.

    Raises:
        ModelError: the padding is computed from the input's size (``auto_pad``).
    """
    ends = padding(node)
    return [size for pair in reversed(ends) for size in pair], all(first == last for first, last in ends)


def _pool(node: ir.Node) -> Function:
    options = attributes(node)
    kernel, ends = tuple(options["kernel_shape"]), spatial_pads(node)
    strides = tuple(options.get("strides", (1,) * len(kernel)))
    if len(kernel) != 2 or not ends[1] or options.get("ceil_mode"):
        raise ModelError(f"{node.name}: {node.op_type} over two axes, padded alike on both sides, would do")
    pads = tuple(reversed(ends[0][::2])) or (0, 0)
    if node.op_type == "MaxPool":
        dilations = tuple(options.get("dilations", (1, 1)))
        return lambda x: functional.max_pool2d(x, kernel, strides, pads, dilations)
    counts = bool(options.get("count_include_pad", 0))
    return lambda x: functional.avg_pool2d(x, kernel, strides, pads, False, counts)


def _reduce_mean(node: ir.Node) -> Function:
    axes, keep = numbers(node, 1, "axes"), bool(attributes(node).get("keepdims", 1))
    return lambda x: torch.mean(x, dim=axes if axes is not None else list(range(x.ndim)), keepdim=keep)


def _reshape(node: ir.Node) -> Function:
    shape = numbers(node, 1, "shape") or []
    return lambda x: torch.reshape(x, [x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)])


def _flatten(node: ir.Node) -> Function:
    axis = int(attributes(node).get("axis", 1))
    if axis != 1:
        raise ModelError(f"{node.name}: Flatten at axis {axis}; axis 1 would do")
    return lambda x: torch.flatten(x, 1)


def _slice(node: ir.Node) -> Function:
    cuts = slice_cuts(node)

    def cut(x: Tensor) -> Tensor:
        for axis, start, end, step in cuts:
            x = torch.ops.aten.slice.Tensor(x, axis, start, min(end, 2**31 - 1), step)
        return x

    return cut


def _pad(node: ir.Node) -> Function:
    """With a constant; ``integers`` fills with the zero point, which stands for 0."""
    mode, pads = attributes(node).get("mode", "constant"), numbers(node, 1, "pads") or []
    if mode != "constant" or input_at(node, 3) is not None:
        raise ModelError(f"{node.name}: Pad with mode {mode} or axes; mode constant over all axes would do")
    half = len(pads) // 2
    flat = [size for axis in reversed(range(half)) for size in (pads[axis], pads[half + axis])]
    fill = constant(input_at(node, 2))
    moves_integers = fill is not None and fill.dtype in (ir.DataType.INT8, ir.DataType.UINT8)
    value = 0.0 if fill is None or moves_integers else float(fill.numpy())
    return lambda x: functional.pad(x, flat, value=value)


def _clip(node: ir.Node) -> Function:
    low, high = clip_ends(node)
    if low == 0.0 and high is None:
        return functional.relu
    if low is not None and high is not None:
        return lambda x: functional.hardtanh(x, low, high)
    return lambda x: torch.clamp(x, low, high)


def _concat(node: ir.Node) -> Function:
    axis = int(attributes(node)["axis"])
    return lambda *parts: torch.cat(parts, axis)


def _transpose(node: ir.Node) -> Function:
    order = attributes(node).get("perm")
    return lambda x: torch.permute(x, order if order is not None else list(reversed(range(x.ndim))))


def _squeeze(node: ir.Node) -> Function:
    axes = numbers(node, 1, "axes")
    if axes is None:
        raise ModelError(f"{node.name}: Squeeze without axes; axes would do")
    return lambda x: torch.squeeze(x, tuple(axes))


def _unsqueeze(node: ir.Node) -> Function:
    axes = numbers(node, 1, "axes") or []

    def widen(x: Tensor) -> Tensor:
        rank = x.ndim + len(axes)  # negative axes count from the end of the output
        for axis in sorted(axis % rank for axis in axes):
            x = torch.unsqueeze(x, axis)
        return x

    return widen


def _softmax(node: ir.Node) -> Function:
    require_softmax_of_one_axis(node)
    axis = int(attributes(node).get("axis", -1))
    return lambda x: torch.softmax(x, axis)


def _hard_sigmoid(node: ir.Node) -> Function:
    options = attributes(node)
    alpha, beta = float(options.get("alpha", 0.2)), float(options.get("beta", 0.5))
    return lambda x: torch.clamp(x * alpha + beta, 0.0, 1.0)


def _plain(function: Function) -> Build:
    return lambda node: function


OPERATORS: Mapping[str, Build] = {
    **{name: _plain(getattr(torch, name.lower())) for name in ("Add", "Sub", "Mul", "Div", "Sigmoid", "Tanh")},
    "Relu": _plain(functional.relu),
    "HardSwish": _plain(functional.hardswish),
    "Identity": _plain(torch.clone),
    "GlobalAveragePool": _plain(lambda x: torch.mean(x, dim=list(range(2, x.ndim)), keepdim=True)),
    **dict.fromkeys(("AveragePool", "MaxPool"), _pool),
    "ReduceMean": _reduce_mean,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Slice": _slice,
    "Pad": _pad,
    "Clip": _clip,
    "Concat": _concat,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Softmax": _softmax,
    "HardSigmoid": _hard_sigmoid,
}
