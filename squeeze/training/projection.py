"""Hidden features of a student that is narrower than its teacher: the linear map that takes one to the other.

FitNets (Romero et al., 2014, https://arxiv.org/abs/1412.6550) trains that map by gradients beside the student. Given
the student, the best one is known: least squares. It is solved anew for each batch, from sums that forget slowly, and
the student's gradient treats it as fixed, which at the optimum it may (variable projection: Golub and Pereyra, 1973,
https://doi.org/10.1137/0710036).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from squeeze.algorithms.moments import damped
from squeeze.errors import SqueezeError

if TYPE_CHECKING:
    from squeeze.training.peers import Peers

MEMORY = 0.95  # weight of earlier batches beside a new one: the last twenty count
DAMPING = 1e-4  # share of the mean diagonal


class Projection:
    """From ``[rows, width]`` to ``[rows, teacher_width]``."""

    def __init__(self, width: int, teacher_width: int) -> None:
        self.gram, self.cross = torch.zeros(width, width), torch.zeros(width, teacher_width)

    def of(self, student: Tensor) -> Tensor:
        """The student's rows as the teacher's would be, with gradients."""
        matrix: Tensor = torch.linalg.solve(damped(self.gram, DAMPING), self.cross)
        return student @ matrix

    def add(self, X: Tensor, Y: Tensor, peers: Peers | None = None) -> None:
        """Learn from a batch: rows of the student's and of the teacher's, without gradients."""
        new = torch.cat([X.t() @ X, X.t() @ Y], dim=1) / len(X)
        if peers is not None:
            if not peers.at_once:
                what = "features of other widths than the teacher's need a process's part of a batch in one piece"
                raise SqueezeError(f"distill: {what}; a smaller batch_size, shorter sequences or one process would do")
            new = peers.means(new.flatten()).view_as(new)
        width = len(self.gram)
        self.gram.mul_(MEMORY).add_(new[:, :width])
        self.cross.mul_(MEMORY).add_(new[:, width:])


def differing_axis(student: tuple[int, ...], teacher: tuple[int, ...]) -> int | None:
    """The one axis in which two shapes differ; None: they are equal.

    Raises:
        ValueError: they differ in more, or in the number of axes.
    """
    if len(student) != len(teacher):
        raise ValueError
    differing = [axis for axis, (one, other) in enumerate(zip(student, teacher, strict=True)) if one != other]
    if len(differing) > 1:
        raise ValueError
    return differing[0] if differing else None


def rows(features: Tensor, axis: int) -> Tensor:
    """``[rows, width]``, the width being that of an axis."""
    return features.movedim(axis, -1).flatten(0, -2)
