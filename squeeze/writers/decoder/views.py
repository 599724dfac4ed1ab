"""Torch functions that move and pick elements, as nodes: shapes, parts, indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from squeeze.errors import ModelError
from squeeze.writers.decoder.shapes import Dim, Shape, completed
from squeeze.writers.decoder.traced import Traced, axis_of, function, number


def _listed(sizes: tuple[Any, ...]) -> Shape:
    """Sizes, which torch takes one by one or as one list."""
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes


@function("view", "reshape")
def reshape(traced: Traced, *sizes: Any) -> Traced:
    shape = completed(traced.shape, _listed(sizes))
    return traced if shape == traced.shape else traced.like(traced.builder.reshape(traced.value, shape))


@function("flatten")
def flatten(traced: Traced, start_dim: int = 0, end_dim: int = -1) -> Traced:
    start, end = axis_of(traced, start_dim), axis_of(traced, end_dim)
    return reshape(traced, (*traced.shape[:start], -1, *traced.shape[end + 1 :]))


@function("unsqueeze")
def unsqueeze(traced: Traced, dim: int) -> Traced:
    axis = dim % (len(traced.shape) + 1)
    return reshape(traced, (*traced.shape[:axis], 1, *traced.shape[axis:]))


@function("squeeze")
def squeeze(traced: Traced, dim: int) -> Traced:
    axis = axis_of(traced, dim)
    return reshape(traced, (*traced.shape[:axis], *traced.shape[axis + 1 :])) if traced.shape[axis] == 1 else traced


@function("transpose", "swapaxes")
def transpose(traced: Traced, dim0: int, dim1: int) -> Traced:
    order = list(range(len(traced.shape)))
    one, other = axis_of(traced, dim0), axis_of(traced, dim1)
    order[one], order[other] = other, one
    return traced.like(traced.builder.transpose(traced.value, order))


@function("permute")
def permute(traced: Traced, *order: Any) -> Traced:
    axes = [axis_of(traced, axis) for axis in (order[0] if len(order) == 1 else order)]
    return traced.like(traced.builder.transpose(traced.value, axes))


@function("expand")
def expand(traced: Traced, *sizes: Any) -> Traced:
    requested = [have if size == -1 else size for size, have in zip(_listed(sizes), traced.shape, strict=True)]
    pairs = zip(requested, traced.shape, strict=True)
    repeats = [1 if size == have else number(size, "how often to repeat") for size, have in pairs]
    return traced.apply("Expand", traced.builder.constant(repeats), shape=tuple(requested))


@function("cat", "concat")
def cat(parts: Sequence[Traced], dim: int = 0) -> Traced:
    first = parts[0]
    axis = axis_of(first, dim)
    total_size = sum(number(part.shape[axis], "the length of what is joined") for part in parts)
    shape = (*first.shape[:axis], total_size, *first.shape[axis + 1 :])
    return first.apply("Concat", *(part.value for part in parts[1:]), shape=shape, axis=axis)


@function("stack")
def stack(parts: Sequence[Traced], dim: int = 0) -> Traced:
    return cat([unsqueeze(part, dim) for part in parts], dim)


@function("split")
def split(traced: Traced, sizes: Any, dim: int = 0) -> tuple[Traced, ...]:
    axis = axis_of(traced, dim)
    whole = number(traced.shape[axis], "the length of what is cut")
    parts = list(sizes) if not isinstance(sizes, int) else [min(sizes, whole - at) for at in range(0, whole, sizes)]
    shapes = [(*traced.shape[:axis], part, *traced.shape[axis + 1 :]) for part in parts]
    inputs = [traced.value, traced.builder.constant(parts)]
    return tuple(map(traced.like, traced.builder.node("Split", inputs, shapes, {"axis": axis})))


@function("chunk")
def chunk(traced: Traced, chunks: int, dim: int = 0) -> tuple[Traced, ...]:
    whole = number(traced.shape[axis_of(traced, dim)], "the length of what is cut")
    return split(traced, -(-whole // chunks), dim)


class LastOnly:
    """In place of an index along the tokens: as many of the last ones as the graph's input says; 0 = all."""

    def __init__(self, start: Traced, size: Dim) -> None:
        self.start, self.size = start, size  # start: int64 [1], the negative number


@function("__getitem__")
def getitem(traced: Traced, index: Any) -> Traced:
    """Slices, whole axes, new axes and places known now."""
    items = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in items:
        at, count = items.index(Ellipsis), sum(item is not None for item in items) - 1
        items[at : at + 1] = [slice(None)] * (len(traced.shape) - count)
    axis = 0
    for item in items:
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
    bounds = [traced.builder.constant([bounds]) for bounds in (start, end, axis, step)]
    return traced.apply("Slice", *bounds, shape=shape)


def _last(traced: Traced, axis: int, item: LastOnly) -> Traced:
    shape = (*traced.shape[:axis], item.size, *traced.shape[axis + 1 :])
    end, place = traced.builder.constant([2**62]), traced.builder.constant([axis])
    return traced.apply("Slice", item.start.value, end, place, shape=shape)


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
    return Blank(_listed(sizes))
