"""GPTQ: quantize column by column, compensating each error in the columns not yet quantized.

Frantar et al., 2022, https://arxiv.org/abs/2210.17323. The letters are the paper's: ``W`` is the weight
``[out, in]``, ``H`` the Hessian ``X X^T`` ``[in, in]`` of the inputs ``X``, ``Q`` what ``W`` becomes; the loss is
``tr (W - Q) H (W - Q)^T``.

The paper inverts ``H``, factorizes the inverse and pushes each error forward. With ``H = R R^T``, ``R`` upper
triangular, the loss is the squared norm of ``(W - Q) R``, whose column ``j`` holds errors of columns up to ``j`` only.
So column ``j`` is best rounded at ``w_j + sum_{k<j} (w_k - q_k) R_kj / R_jj``: the same integers from one Cholesky and
no inverse (the linear feedback of QuIP, Chee et al., 2023, https://arxiv.org/abs/2307.13304, who prove the two equal).

``R`` is the Cholesky factor of ``H`` with its columns in reverse, so everything here lies in reverse: row ``n - 1`` of
the transposed weight is rounded first. A batch of rows gathers what all rows before it ask of it as one product, then
halves itself until it fits the cache. Linears that share an input share a Hessian: stack their rows and solve once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor, integer_range
from squeeze.algorithms.factor import Factor, Order, factorize
from squeeze.algorithms.hessian import bf16_products
from squeeze.algorithms.rtn import Clip, fit_scale, require_finite, require_group_size
from squeeze.algorithms.threads import one_thread
from squeeze.errors import ShapeError

__all__ = ["Factor", "Order", "Solved", "factorize", "solve"]

LAZY_BATCH = 512  # columns updated with all earlier errors in one product
BLOCK = 32  # columns that are rounded one by one: their errors stay in the cache
TILE = 256  # side of a square that is transposed at once
FIT_ROWS = 1024  # output channels whose scales are searched at once


@dataclass(frozen=True)
class Solved:
    """A weight on the grid, in the original order of input channels.

    Args:
        q: int8 ``[out, in]``.
        scale: float32 ``[out, groups]``.
        zero_point: int32 ``[out, groups]``.
        g_idx: int32 ``[in]``, the group of each input channel, where groups are not consecutive channels; else None.
        loss: float32 ``[out]``, the diagonal of ``(W-Q) H (W-Q)^T``, without damping.
        clipped: Share of weights that lay beyond the ends of their grid.
    """

    q: Tensor
    scale: Tensor
    zero_point: Tensor
    g_idx: Tensor | None
    bits: int
    group_size: int | None
    symmetric: bool
    loss: Tensor
    clipped: float

    def dequantize(self) -> Tensor:
        """float32 ``[out, in]``."""
        return self.grid().dequantize()

    def grid(self, start: int = 0, stop: int | None = None) -> QuantizedTensor:
        """Rows ``start`` to ``stop`` (one linear of a stack) as the one grid of the house."""
        rows = slice(start, stop)
        q, scale, zero_point = self.q[rows], self.scale[rows], self.zero_point[rows]
        return QuantizedTensor(q, scale, zero_point, self.bits, self.group_size, self.symmetric, self.g_idx)


def solve(
    weight: Tensor,
    factor: Factor,
    bits: int,
    group_size: int | None = None,
    symmetric: bool = True,
    clip: Clip = "absmax",
    static: bool = False,
    scale_dtype: torch.dtype = torch.float16,
    negative_scales: bool = False,
    lazy_batch: int = LAZY_BATCH,
) -> Solved:
    """Round a weight, or several stacked ones, so that the outputs change least.

    Args:
        weight: ``[out, in]``; rows do not see each other, so linears that share their input may be stacked.
        factor: Of the Hessian of that input.
        bits, group_size, symmetric, clip, scale_dtype: As in :func:`squeeze.algorithms.rtn.round_to_nearest`; ``mse``
            weighs each error with what it costs here, which is worth more than any other option.
        static: Choose all scales from the original weights; otherwise each when its group's turn comes, from the
            weights as corrected by then.
        negative_scales: As in :func:`squeeze.algorithms.rtn.fit_scale`.
        lazy_batch: Columns corrected by one product; changes the time, not the result.

    Raises:
        ShapeError: Shapes do not fit each other, or ``group_size`` does not divide ``in``.
        SqueezeError: A weight is not finite.
    """
    size = require_group_size(weight.shape[1], group_size)
    _require_fit(weight, factor, group_size)
    solver = _Solver(weight, factor, bits, size, symmetric, clip, scale_dtype, negative_scales)
    if static or size == weight.shape[1]:
        solver.fit_all()
    batch = size * max(1, lazy_batch // size) if size < weight.shape[1] else lazy_batch
    for stop in range(weight.shape[1], 0, -batch):
        solver.solve_batch(max(0, stop - batch), stop)
    return solver.solved(group_size)


class _Solver:
    """The state of one solve: ``rest`` holds weights still to be rounded, and errors of those that are."""

    def __init__(
        self,
        weight: Tensor,
        factor: Factor,
        bits: int,
        size: int,
        symmetric: bool,
        clip: Clip,
        scale_dtype: torch.dtype,
        negative_scales: bool,
    ) -> None:
        n = weight.shape[1]
        self.factor, self.bits, self.size, self.symmetric = factor, bits, size, symmetric
        self.clip, self.scale_dtype, self.negative_scales = clip, scale_dtype, negative_scales
        self.rest = _transposed(weight, factor.columns)
        require_finite(self.rest, "weight")
        self.q = torch.empty_like(self.rest, dtype=torch.int8)
        self.group = torch.arange(n - 1, -1, -1) if factor.order == "act_order" else factor.columns.clone()
        self.group //= size
        self.scale = torch.ones(n // size, weight.shape[0])
        self.zero_point = torch.zeros_like(self.scale)
        self.pivots = factor.diagonal()
        self.loss, self.clipped = torch.zeros(weight.shape[0]), 0
        self.fitted = False

    def fit_all(self) -> None:
        """Choose every group's scale now."""
        self.fitted = True
        for start in range(0, len(self.rest), self.size):
            self._fit(self.rest[start : start + self.size], start)

    def solve_batch(self, start: int, stop: int) -> None:
        """Correct rows ``start`` to ``stop`` for all errors so far, then round them."""
        self.start = start
        rows = slice(start, len(self.pivots))
        self.coupling = self.factor.space.tall(self.factor.lower, rows, slice(start, stop)) / self.pivots[start:stop]
        self.target = self.rest[start:stop].clone()
        _add_product(self.target, self.coupling[stop - start :], self.rest[stop:])
        self.factor.space.release()
        self._halve(0, stop - start)

    def _halve(self, low: int, high: int) -> None:
        """Round the later half, correct the earlier one for it, round that; never split a group before its scale."""
        columns = high - low
        if columns == self.size and not self.fitted:
            self._fit(self._corrected(low, high), self.start + low)
        if columns <= min(BLOCK, self.size):
            with one_thread():
                self._round(low, high)
            return
        unit = self.size if columns > self.size else 1
        middle = low + columns // unit // 2 * unit
        self._halve(middle, high)
        errors = self.rest[self.start + middle : self.start + high]
        self.target[low:middle].addmm_(self.coupling[middle:high, low:middle].t(), errors)
        self._halve(low, middle)

    def _corrected(self, low: int, high: int) -> Tensor:
        """A group's weights corrected for all errors so far, not yet rounded; the scale is fitted to them.

        A column's target counts on the columns between to take their targets; solving the group's triangle undoes it.
        """
        weight = self.rest[self.start + low : self.start + high]
        triangle, identity = self.coupling[low:high, low:high].t(), torch.eye(high - low, device=weight.device)
        inverse = torch.linalg.solve_triangular(triangle, identity, upper=True, unitriangular=True)
        return torch.addmm(weight, inverse, self.target[low:high] - weight)

    def _fit(self, values: Tensor, start: int) -> None:
        """Fit a group's scale; the loss weights an error in a column by its squared pivot."""
        group, importance = int(self.group[start]), self.pivots[start : start + self.size].square()
        for start in range(0, values.shape[1], FIT_ROWS):  # chunks that the scale search can keep in the cache
            part = slice(start, start + FIT_ROWS)
            self.scale[group, part], self.zero_point[group, part] = fit_scale(
                values[:, part].t(),
                self.bits,
                self.symmetric,
                self.clip,
                self.scale_dtype,
                importance,
                self.negative_scales,
            )

    def _round(self, low: int, high: int) -> None:
        """Round columns one by one, each corrected for those before it in the block."""
        rows = slice(self.start + low, self.start + high)
        group = int(self.group[rows.start])
        scale, zero_point = self.scale[group], self.zero_point[group]
        target, errors, coupling = self.target[low:high], self.rest[rows], self.coupling[low:high, low:high]
        if not self.symmetric:
            errors.addcmul_(scale, zero_point)  # w - s (q - z) = (w + s z) - s q
        q = _round_columns(target, errors, coupling, scale, zero_point, integer_range(self.bits))
        self.q[rows] = q
        residual = target.addcmul_(q.sub_(zero_point), scale, value=-1)
        self._account(residual, errors, scale, self.pivots[rows])

    def _account(self, residual: Tensor, errors: Tensor, scale: Tensor, pivots: Tensor) -> None:
        beyond = torch.gt(
            residual.abs(), scale.abs() * 0.501, out=torch.empty_like(residual)
        )  # floats: summed faster than bools
        self.clipped += int(beyond.sum())
        self.loss += pivots.square() @ residual.square_()
        self.loss -= errors.square().sum(dim=0).mul_(self.factor.added)

    def solved(self, group_size: int | None) -> Solved:
        """Back to the original order of input channels."""
        back = self.factor.columns.argsort()
        grouped_by_order = self.factor.order == "act_order" and self.size < len(back)
        return Solved(
            self.q[back].t().contiguous(),
            self.scale.t().contiguous(),
            self.zero_point.t().contiguous().int(),
            self.group[back].int() if grouped_by_order else None,
            self.bits,
            group_size,
            self.symmetric,
            self.loss.clamp_min(0),
            self.clipped / self.q.numel(),
        )


def _add_product(target: Tensor, coupling: Tensor, errors: Tensor) -> None:
    """``target += coupling^T errors``; bf16 factors leave the loss equal: what they miss is small beside rounding."""
    with bf16_products():
        target.addmm_(coupling.t(), errors)


def _round_columns(
    target: Tensor, errors: Tensor, coupling: Tensor, scale: Tensor, zero_point: Tensor, limits: tuple[int, int]
) -> Tensor:
    """The innermost loop: five operations on a contiguous row of ``out`` values; integers, as floats, come back."""
    q = torch.empty_like(target)
    rows = zip(target.unbind(), errors.unbind(), q.unbind(), strict=True)
    for i, (column, error, integers) in reversed(list(enumerate(rows))):
        if i + 1 < len(q):
            column.addmv_(errors[i + 1 :].t(), coupling[i + 1 :, i])
        torch.addcdiv(zero_point, column, scale, out=integers).round_().clamp_(*limits)
        error.addcmul_(integers, scale, value=-1)
    return q


def _transposed(weight: Tensor, columns: Tensor) -> Tensor:
    """float32 ``[in, out]``, rows as listed in ``columns``; tile by tile, so that neither side leaves the cache."""
    transposed = torch.empty(len(columns), weight.shape[0], device=weight.device)
    for rows, part in zip(torch.split(transposed, TILE), torch.split(columns, TILE), strict=True):
        for to, origin in zip(torch.split(rows, TILE, dim=1), torch.split(weight, TILE), strict=True):
            to.copy_(origin.index_select(1, part).t())
    return transposed


def _require_fit(weight: Tensor, factor: Factor, group_size: int | None) -> None:
    if weight.shape[1] != len(factor.columns):
        raise ShapeError(f"weight has {weight.shape[1]} input channels, its Hessian {len(factor.columns)}")
    if factor.order == "group_aware" and group_size != factor.group_size:
        raise ShapeError(f"Hessian was ordered for group_size {factor.group_size}, not {group_size}")
