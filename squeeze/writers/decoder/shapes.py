"""Shapes in which some sizes are only names: the batch, the new tokens, all tokens.

A name is a :class:`Dim`, everything else an int. Names multiply (``batch*length``) and cancel, nothing more; torch code
that asks for more than that fails on them, and the export says so.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod

from squeeze.errors import ShapeError


@dataclass(frozen=True)
class Dim:
    """A size known at run time: a product of names, in alphabetical order."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return "*".join(self.names)


Size = int | Dim
Shape = tuple[Size, ...]

BATCH, LENGTH, LOGIT_ROWS = Dim(("batch",)), Dim(("length",)), Dim(("kept",))


def broadcast(one: Shape, other: Shape) -> Shape:
    """The shape of an elementwise result."""
    rank = max(len(one), len(other))
    pairs = zip((1,) * (rank - len(one)) + one, (1,) * (rank - len(other)) + other, strict=True)
    return tuple(_common(a, b) for a, b in pairs)


def completed(shape: Shape, requested: Shape) -> Shape:
    """``requested`` with its -1 worked out; raises ``ShapeError`` where it holds other elements than ``shape``."""
    count, names = _elements(shape)
    known_count, used_names = _elements(tuple(size for size in requested if size != -1))
    free_names = names - used_names
    if -1 not in requested:
        if count != known_count or names != used_names:
            raise ShapeError(f"{text(shape)} cannot be seen as {text(requested)}")
        return requested
    if used_names - names or count % known_count or (free_names and count != known_count):
        raise ShapeError(f"{text(shape)} cannot be seen as {text(requested)}")
    free: Size = Dim(tuple(sorted(free_names.elements()))) if free_names else count // known_count
    return tuple(free if size == -1 else size for size in requested)


def text(shape: Shape) -> str:
    """``[batch, length, 64]``."""
    return f"[{', '.join(map(str, shape))}]"


def _common(a: Size, b: Size) -> Size:
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    raise ShapeError(f"sizes {a} and {b} do not go together")


def _elements(shape: Shape) -> tuple[int, Counter[str]]:
    names = Counter(name for size in shape if isinstance(size, Dim) for name in size.names)
    return prod(size for size in shape if isinstance(size, int)), names
