"""Torch functions as nodes: arithmetic, views, reductions. Weights and fused operators are in files of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from squeeze.errors import ModelError
from squeeze.writers.decoder.shapes import Dim, Shape, Size, broadcast, completed
from squeeze.writers.decoder.traced import DTYPES, Traced, as_value, axis_of, function, number, sizes_of


def _elementwise(op: str, one: Any, other: Any) -> Traced:
    traced = one if isinstance(one, Traced) else other
    values = [as_value(traced.builder, item, traced.dtype) for item in (one, other)]
    shape = broadcast(sizes_of(one), sizes_of(other))
    return traced.like(traced.builder.one(op, values, shape, dtype=DTYPES[traced.dtype]))


@function("add", "__add__", "__radd__", "__iadd__", "add_")
def add(one: Any, other: Any) -> Traced:
    """Sum."""
    return _elementwise("Add", one, other)


@function("sub", "__sub__")
def sub(one: Any, other: Any) -> Traced:
    """Difference."""
    return _elementwise("Sub", one, other)


@function("rsub", "__rsub__")
def rsub(one: Any, other: Any) -> Traced:
    """Difference, the other way round."""
    return _elementwise("Sub", other, one)


@function("mul", "__mul__", "__rmul__", "__imul__", "multiply")
def mul(one: Any, other: Any) -> Any:
    """Product; one with 1 is no node."""
    if isinstance(other, (int, float)) and other == 1:
        return one
    return _elementwise("Mul", one, other)


@function("div", "__truediv__", "__itruediv__", "true_divide")
def div(one: Any, other: Any) -> Traced:
    """Quotient."""
    return _elementwise("Div", one, other)


@function("square")
def square(traced: Traced) -> Traced:
    """``x * x``."""
    return _elementwise("Mul", traced, traced)


@function("pow", "__pow__")
def power(one: Traced, exponent: Any) -> Traced:
    """Power; a square is a product."""
    return _elementwise("Mul", one, one) if exponent == 2 else _elementwise("Pow", one, exponent)


@function("matmul", "__matmul__")
def matmul(one: Traced, other: Traced) -> Traced:
    """Product of the last two axes."""
    shape = (*broadcast(one.shape[:-2], other.shape[:-2]), one.shape[-2], other.shape[-1])
    return one.like(one.builder.one("MatMul", [one.value, other.value], shape))


def _unary(op: str, name: str, **attributes: Any) -> None:
    def form(traced: Traced, *_: Any, **__: Any) -> Traced:
        return traced.like(traced.builder.one(op, [traced.value], traced.shape, attributes=attributes))

    function(name)(form)


for _op in ("Neg", "Tanh", "Sigmoid", "Relu", "Sqrt", "Exp", "Cos", "Sin"):
    _unary(_op, _op.lower())


@function("rsqrt")
def rsqrt(traced: Traced) -> Traced:
    """``1 / sqrt(x)``."""
    root = traced.builder.one("Sqrt", [traced.value], traced.shape)
    return traced.like(traced.builder.one("Reciprocal", [root], traced.shape))


@function("silu")
def silu(traced: Traced, **_: Any) -> Traced:
    """``x * sigmoid(x)``."""
    gate = traced.builder.one("Sigmoid", [traced.value], traced.shape)
    return traced.like(traced.builder.one("Mul", [traced.value, gate], traced.shape))


@function("gelu")
def gelu(traced: Traced, approximate: str = "none") -> Traced:
    """Gelu, by tanh or exact."""
    attributes = {"approximate": approximate}
    return traced.like(traced.builder.one("Gelu", [traced.value], traced.shape, attributes=attributes))


@function("softmax")
def softmax(traced: Traced, dim: int, *_: Any, **__: Any) -> Traced:
    """Along one axis."""
    axis = axis_of(traced, dim)
    return traced.like(traced.builder.one("Softmax", [traced.value], traced.shape, attributes={"axis": axis}))


def _reduced(op: str, traced: Traced, dim: Any, keepdim: bool) -> Traced:
    axes = [axis_of(traced, axis) for axis in (dim if isinstance(dim, (tuple, list)) else (dim,))]
    kept = [1 if axis in axes else size for axis, size in enumerate(traced.shape)]
    shape = tuple(kept if keepdim else (size for axis, size in enumerate(traced.shape) if axis not in axes))
    inputs = [traced.value, traced.builder.constant(axes)]
    return traced.like(traced.builder.one(op, inputs, shape, attributes={"keepdims": int(keepdim)}))


@function("mean")
def mean(traced: Traced, dim: Any, keepdim: bool = False) -> Traced:
    """Along some axes."""
    return _reduced("ReduceMean", traced, dim, keepdim)


@function("sum")
def total(traced: Traced, dim: Any, keepdim: bool = False) -> Traced:
    """Along some axes."""
    return _reduced("ReduceSum", traced, dim, keepdim)


@function("topk")
def topk(traced: Traced, k: int, dim: int = -1, largest: bool = True, **_: Any) -> tuple[Traced, Traced]:
    """The largest values along one axis, and their places."""
    axis = axis_of(traced, dim)
    shape = tuple(k if place == axis else size for place, size in enumerate(traced.shape))
    kinds = [DTYPES[torch.float32], DTYPES[torch.int64]]
    inputs = [traced.value, traced.builder.constant([k])]
    values, places = traced.builder.node(
        "TopK", inputs, [shape, shape], {"axis": axis, "largest": int(largest)}, dtype=kinds
    )
    return traced.like(values), traced.like(places, torch.int64)


@function("to", "type_as", "float", "type")
def to(traced: Traced, *asked: Any, **named: Any) -> Traced:
    """Of another dtype; all floats are float32 here."""
    wanted = [item for item in (*asked, *named.values()) if isinstance(item, torch.dtype)]
    dtype = torch.float32 if not wanted or wanted[0].is_floating_point else wanted[0]
    if not (wanted or not asked) or dtype == traced.dtype or (not wanted and traced.dtype == torch.float32):
        return traced
    attributes = {"to": int(DTYPES[dtype])}
    value = traced.builder.one("Cast", [traced.value], traced.shape, attributes=attributes, dtype=DTYPES[dtype])
    return traced.like(value, dtype)


@function("contiguous", "clone", "detach", "dropout")
def same(traced: Traced, *_: Any, **__: Any) -> Traced:
    """Nothing that a graph would notice."""
    return traced


@function("view", "reshape")
def reshape(traced: Traced, *sizes: Any) -> Traced:
    """Seen as another shape."""
    wanted: Shape = tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    shape = completed(traced.shape, wanted)
    return traced if shape == traced.shape else traced.like(traced.builder.reshape(traced.value, shape))


@function("flatten")
def flatten(traced: Traced, start_dim: int = 0, end_dim: int = -1) -> Traced:
    """Some axes as one."""
    start, end = axis_of(traced, start_dim), axis_of(traced, end_dim)
    return reshape(traced, (*traced.shape[:start], -1, *traced.shape[end + 1 :]))


@function("unsqueeze")
def unsqueeze(traced: Traced, dim: int) -> Traced:
    """A new axis of size 1."""
    axis = dim % (len(traced.shape) + 1)
    return reshape(traced, (*traced.shape[:axis], 1, *traced.shape[axis:]))


@function("squeeze")
def squeeze(traced: Traced, dim: int) -> Traced:
    """Without an axis of size 1."""
    axis = axis_of(traced, dim)
    return reshape(traced, (*traced.shape[:axis], *traced.shape[axis + 1 :])) if traced.shape[axis] == 1 else traced


@function("transpose", "swapaxes")
def transpose(traced: Traced, dim0: int, dim1: int) -> Traced:
    """Two axes in each other's place."""
    order = list(range(len(traced.shape)))
    one, other = axis_of(traced, dim0), axis_of(traced, dim1)
    order[one], order[other] = other, one
    return traced.like(traced.builder.transpose(traced.value, order))


@function("permute")
def permute(traced: Traced, *order: Any) -> Traced:
    """Axes in another order."""
    wanted = order[0] if len(order) == 1 else order
    return traced.like(traced.builder.transpose(traced.value, [axis_of(traced, axis) for axis in wanted]))


@function("expand")
def expand(traced: Traced, *sizes: Any) -> Traced:
    """Repeated along axes of size 1."""
    wanted: Sequence[Size] = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    wanted = [have if size == -1 else size for size, have in zip(wanted, traced.shape, strict=True)]
    told = [
        1 if size == have else number(size, "how often to repeat")
        for size, have in zip(wanted, traced.shape, strict=True)
    ]
    inputs = [traced.value, traced.builder.constant(told)]
    return traced.like(traced.builder.one("Expand", inputs, tuple(wanted)))


@function("cat", "concat")
def cat(parts: Sequence[Traced], dim: int = 0) -> Traced:
    """One behind the other."""
    first = parts[0]
    axis = axis_of(first, dim)
    total_size = sum(number(part.shape[axis], "the length of what is joined") for part in parts)
    shape = (*first.shape[:axis], total_size, *first.shape[axis + 1 :])
    return first.like(first.builder.one("Concat", [part.value for part in parts], shape, attributes={"axis": axis}))


@function("stack")
def stack(parts: Sequence[Traced], dim: int = 0) -> Traced:
    """Side by side along a new axis."""
    return cat([unsqueeze(part, dim) for part in parts], dim)


@function("split")
def split(traced: Traced, sizes: Any, dim: int = 0) -> tuple[Traced, ...]:
    """Cut along one axis."""
    axis = axis_of(traced, dim)
    whole = number(traced.shape[axis], "the length of what is cut")
    parts = list(sizes) if not isinstance(sizes, int) else [min(sizes, whole - at) for at in range(0, whole, sizes)]
    shapes = [(*traced.shape[:axis], part, *traced.shape[axis + 1 :]) for part in parts]
    inputs = [traced.value, traced.builder.constant(parts)]
    return tuple(map(traced.like, traced.builder.node("Split", inputs, shapes, {"axis": axis})))


@function("chunk")
def chunk(traced: Traced, chunks: int, dim: int = 0) -> tuple[Traced, ...]:
    """Cut into as many parts."""
    whole = number(traced.shape[axis_of(traced, dim)], "the length of what is cut")
    return split(traced, -(-whole // chunks), dim)


class LastOnly:
    """In place of an index along the tokens: as many of the last ones as the graph's input says; 0 = all."""

    def __init__(self, start: Traced, kept: Dim) -> None:
        self.start, self.kept = start, kept  # start: int64 [1], the negative number


@function("__getitem__")
def getitem(traced: Traced, index: Any) -> Traced:
    """Slices, whole axes, new axes and places known now."""
    wanted = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in wanted:
        at, named = wanted.index(Ellipsis), sum(item is not None for item in wanted) - 1
        wanted[at : at + 1] = [slice(None)] * (len(traced.shape) - named)
    axis = 0
    for item in wanted:
        if item is None:
            traced = unsqueeze(traced, axis)
        elif isinstance(item, int):
            traced = squeeze(_sliced(traced, axis, slice(item, item + 1 or None)), axis)
            continue
        elif isinstance(item, LastOnly):
            traced = _last(traced, axis, item)
        elif isinstance(item, slice):
            traced = _sliced(traced, axis, item)
        else:
            raise ModelError(f"no graph form of an index by {type(item).__name__} is known")
        axis += 1
    return traced


def _sliced(traced: Traced, axis: int, part: slice) -> Traced:
    if part in (slice(None), slice(0, None)):
        return traced
    whole = number(traced.shape[axis], "the length of what is cut")
    start, end, step = part.indices(whole)
    if (start, end, step) == (0, whole, 1):
        return traced
    shape = (*traced.shape[:axis], len(range(start, end, step)), *traced.shape[axis + 1 :])
    told = [traced.builder.constant([told]) for told in (start, end, axis, step)]
    return traced.like(traced.builder.one("Slice", [traced.value, *told], shape))


def _last(traced: Traced, axis: int, item: LastOnly) -> Traced:
    shape = (*traced.shape[:axis], item.kept, *traced.shape[axis + 1 :])
    end, place = traced.builder.constant([2**62]), traced.builder.constant([axis])
    return traced.like(traced.builder.one("Slice", [traced.value, item.start.value, end, place], shape))


class Blank:
    """An empty tensor that is filled part by part along its last axis, as ``new_empty`` and ``copy_`` do."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.parts: dict[int, Traced] = {}

    def __getitem__(self, index: Any) -> Part:
        if not (isinstance(index, tuple) and index[0] is Ellipsis and isinstance(index[1], slice)):
            raise ModelError("no graph form of filling a tensor other than along its last axis is known")
        return Part(self, index[1].start or 0)

    def filled(self) -> Traced:
        """All parts, in their order."""
        return cat([self.parts[start] for start in sorted(self.parts)], -1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.filled(), name)


class Part:
    """One part of a :class:`Blank`."""

    def __init__(self, blank: Blank, start: int) -> None:
        self.blank, self.start = blank, start

    def copy_(self, source: Traced) -> None:
        """Fill it; a source of fewer heads is repeated."""
        shape = (*self.blank.shape[:-1], source.shape[-1])
        self.blank.parts[self.start] = source if source.shape == shape else expand(source, shape)


@function("new_empty")
def new_empty(_: Traced, *sizes: Any, **__: Any) -> Blank:
    """To be filled."""
    return Blank(tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes)
