"""Convolutions and matrix products with stored weights, in MIL: a weight is floats, or integers with their scales.

Integers of 8 bits with a scale per channel are ``constexpr_affine_dequantize`` (iOS 17); 4 bits and groups of input
channels are ``constexpr_blockwise_shift_scale`` (iOS 18).
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import numpy as np

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import ModelError
from squeeze.formats.grid_kind import GridKind
from squeeze.formats.onnx_attributes import attributes, padding
from squeeze.formats.onnx_layer import group_count, real_bias, weight_array, weight_matrix
from squeeze.writers.mil.operators import Place, flat, float_type

CHANNELS_TARGET, BLOCKS_TARGET = "iOS17", "iOS18"  # of coremltools, the first that has what a grid needs
LEAST_VALUES = 32  # with fewer an operation that casts takes more bytes than it saves
MOST_AXES = 3  # of what MIL's ``linear`` takes


def holds(kind: GridKind) -> str | None:
    """Why MIL cannot hold such a grid; None where it can."""
    if kind.ordered:
        return "MIL has no group per input channel (order: act_order); order: group_aware would do"
    if kind.bits not in (4, 8):
        return f"MIL has no integers of {kind.bits} bits with scales; bits: 4 or bits: 8 would do"
    return None


def holds_in_shape(kind: GridKind, shape: tuple[int, ...]) -> str | None:
    """As :func:`holds`, of a weight ``[out, in, ...]`` whose groups are blocks of its second axis."""
    window = prod(shape[2:])
    if kind.group_size is None or kind.group_size % window == 0:
        return holds(kind)
    return f"groups of {kind.group_size} do not hold whole windows of {window}; group_size: null would do"


def target_of(grids: Iterable[QuantizedTensor]) -> str:
    """The first system whose programs hold all of these grids."""
    simple = all(grid.bits == 8 and grid.group_size is None for grid in grids)
    return CHANNELS_TARGET if simple else BLOCKS_TARGET


def add_layer(place: Place, source: Any, grid: QuantizedTensor | None, weight_name: str, target: str) -> Any:
    """The operations of one layer.

    Args:
        grid: None: its weights are floats.
        weight_name: What its weight is called in the program, where it is integers.
        target: As :func:`target_of` says.
    """
    node = place.node
    matrix = node.op_type != "Conv"
    shape = tuple(weight_matrix(node).shape) if matrix else tuple(map(int, weight_array(node).shape))
    floats = float_type(source)
    if grid is None:
        weight = _floats(place, weight_matrix(node).numpy().reshape(shape), floats)
    else:
        weight = _integers(place, grid, shape, weight_name, target)
    bias = real_bias(node)
    options = {"weight": weight, **({} if bias is None else {"bias": bias.numpy().astype(floats)})}
    return _product(place, source, options) if matrix else _convolution(place, source, options, len(shape) - 2)


def _convolution(place: Place, source: Any, options: dict[str, Any], axes: int) -> Any:
    node, attrs = place.node, attributes(place.node)
    if axes not in (1, 2):
        raise ModelError(f"{node.name}: a convolution over {axes} axes; one or two would do")
    window = {name: [int(size) for size in attrs.get(name, (1,) * axes)] for name in ("strides", "dilations")}
    pads = flat(padding(node) or [(0, 0)] * axes)
    fixed = {"pad_type": "custom", "pad": pads, "groups": group_count(node)}
    return place.mb.conv(x=source, name=place.name, **options, **window, **fixed)


def _product(place: Place, source: Any, options: dict[str, Any]) -> Any:
    node, attrs = place.node, attributes(place.node)
    if any(attrs.get(name, right) != right for name, right in (("alpha", 1.0), ("beta", 1.0), ("transA", 0))):
        raise ModelError(f"{node.name}: a Gemm with alpha, beta or transA has no form in MIL here")
    if len(source.shape) > MOST_AXES:
        raise ModelError(f"{node.name}: a product of {len(source.shape)} axes; at most {MOST_AXES} would do")
    return place.mb.linear(x=source, name=place.name, **options)


def _floats(place: Place, weight: Any, floats: type[np.floating[Any]]) -> Any:
    """In the type that is computed in; stored as float16 where that loses nothing, as the pass float16 leaves it."""
    half = weight.astype(np.float16)
    if floats is np.float16 or weight.size < LEAST_VALUES or not np.array_equal(half.astype(np.float32), weight):
        return weight.astype(floats)
    return place.mb.constexpr_cast(source_val=half, output_dtype="fp32", name=f"{place.name}__floats")


def _integers(place: Place, grid: QuantizedTensor, shape: tuple[int, ...], name: str, target: str) -> Any:
    from coremltools.converters.mil.mil import types

    if reason := holds_in_shape(GridKind.of(grid), shape):
        raise ModelError(f"{place.node.name}: {reason}")
    q, scale = grid.q.numpy().reshape(shape).astype(np.int8), grid.scale.float().numpy()
    zero_point = grid.zero_point.numpy().astype(np.int8)
    if not np.array_equal(zero_point, grid.zero_point.numpy()):
        raise ModelError(f"{place.node.name}: its zero points do not fit into 8 bits")
    if target == CHANNELS_TARGET:
        channels = {"zero_point": np.ascontiguousarray(zero_point[:, 0]), "scale": np.ascontiguousarray(scale[:, 0])}
        return place.mb.constexpr_affine_dequantize(quantized_data=q, axis=np.int32(0), name=name, **channels)
    dtype = types.np_int4_dtype if grid.bits == 4 else np.int8
    blocks = (*scale.shape, *(1,) * (len(shape) - 2))
    offset = {} if grid.symmetric else {"offset": zero_point.reshape(blocks).astype(dtype)}
    data = q.astype(dtype)
    return place.mb.constexpr_blockwise_shift_scale(data=data, scale=scale.reshape(blocks), name=name, **offset)
