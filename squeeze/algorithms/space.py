"""Where matrices as wide as a layer's inputs lie, and how much of one is worked on at once.

Of an 8B model the widest inputs have 14,336 channels: a Hessian of theirs takes 822 MB, and so does its factor. Where
they lie is the caller's choice; algorithms work through them in parts, and tell when they are done with one.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


class Space:
    """In memory, each matrix in one part."""

    def zeros(self, rows: int, columns: int) -> Tensor:
        """float32 ``[rows, columns]``."""
        return torch.zeros(rows, columns)

    def release(self) -> None:
        """What was used of the matrices so far is not needed next."""

    def parts(self, start: int, stop: int) -> Iterator[slice]:
        """Rows, or columns, ``start`` to ``stop``, as many as are worked on at once, in order."""
        if start < stop:
            yield slice(start, stop)

    def tall(self, matrix: Tensor, rows: slice, columns: slice) -> Tensor:
        """Some columns of many rows, to be read."""
        return matrix[rows, columns]

    def columns(self, symmetric: Tensor, columns: slice) -> Tensor:
        """Some columns of a symmetric matrix, to be read."""
        return symmetric[:, columns]

    def parts_back(self, start: int, stop: int) -> Iterator[slice]:
        """The same from the last part to the first."""
        yield from reversed(list(self.parts(start, stop)))


MEMORY = Space()
