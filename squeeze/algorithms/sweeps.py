"""Revisit a weight on its grid: each scale, then each integer, the best that it can be while all others stay.

Coordinate descent on GPTQ's loss ``tr (W - Q) H (W - Q)^T``, so that no step makes it worse. GPTQ rounds a column for
good when its turn comes; here it is asked again, knowing all the others. Behdin et al., "QuantEase", 2023,
https://arxiv.org/abs/2309.01885; the scale of a group has a closed form too, between the integers' turns.

Everything lies transposed, ``[in, out]``, so that a column of the weight is contiguous; output channels do not see each
other and are done a part at a time. A sweep costs one product of ``H`` with the weight and a loop over columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor, integer_range, rows_of
from squeeze.algorithms.rtn import storable
from squeeze.algorithms.threads import one_thread

ROWS = 1024  # output channels at once
BLOCK = 32  # columns that are revisited one by one: what they change stays in the cache
SCALE_CHANGE = 2.0  # at most, by which one step moves a scale


@dataclass(frozen=True)
class Swept:
    """A grid after its sweeps.

    Args:
        grid: The same scheme, other integers and scales.
        gain: float32 ``[out]``, by how much the loss fell, damping not counted.
    """

    grid: QuantizedTensor
    gain: Tensor


def sweep(
    weight: Tensor,
    grid: QuantizedTensor,
    H: Tensor,
    sweeps: int,
    added: float = 0.0,
    scale_dtype: torch.dtype = torch.float16,
) -> Swept:
    """Lower the loss of a grid that another method chose.

    Args:
        weight: ``[out, in]``, what the grid is to stand for.
        H: float32 ``[in, in]``, symmetric, not damped.
        sweeps: How often at most each scale and integer is asked; it ends when no integer changes.
        added: Damping, in units of ``H``: what is lowered is the loss with it on the diagonal.
        scale_dtype: Scales are exact in it afterwards.
    """
    if not sweeps:
        return Swept(grid, torch.zeros(len(weight)))
    parts = []
    for start in range(0, len(weight), ROWS):
        part = _Part(weight[start : start + ROWS], rows_of(grid, start, start + ROWS), H, added, scale_dtype)
        for _ in range(sweeps):
            if not part.sweep():
                break
        parts.append(part)
    q, scale = torch.cat([part.q.t().to(torch.int8) for part in parts]), torch.cat([part.scale.t() for part in parts])
    swept = QuantizedTensor(q, scale, grid.zero_point, grid.bits, grid.group_size, grid.symmetric, grid.g_idx)
    return Swept(swept, torch.cat([part.undamped_gain() for part in parts]))


class _Part:
    """Some output channels: ``q`` and ``error`` (``Q - W``) are ``[in, out]``, ``scale`` is ``[groups, out]``."""

    def __init__(
        self, weight: Tensor, grid: QuantizedTensor, H: Tensor, added: float, scale_dtype: torch.dtype
    ) -> None:
        self.H, self.added, self.limits, self.scale_dtype = H, added, integer_range(grid.bits), scale_dtype
        self.q = grid.q.t().float().contiguous()
        self.scale, self.zero_point = (
            grid.scale.t().clone(memory_format=torch.contiguous_format),
            grid.zero_point.t().float(),
        )
        self.error = (grid.dequantize() - weight.float()).t().contiguous()
        self.groups = _members(grid)
        self.gain, self.squares = torch.zeros(len(weight)), self.error.square().sum(0)

    def sweep(self) -> int:
        """Ask every group once; gives how many integers changed."""
        return sum(self._revisit(number, columns) for number, columns in enumerate(self.groups))

    def undamped_gain(self) -> Tensor:
        """``[out]``, without the share that damping has in it."""
        return self.gain - self.added * (self.squares - self.error.square().sum(0))

    def _revisit(self, number: int, columns: Tensor | slice) -> int:
        H = self.H[columns]
        q, error = self.q[columns], self.error[columns]
        slope, H = (H @ self.error).add_(error, alpha=self.added), H[:, columns]  # half the derivative of the loss
        self._rescale(number, q, error, slope, H)
        before = q.clone()
        for low in range(0, len(q), BLOCK):
            block = slice(low, low + BLOCK)
            slope[block].addmm_(H[block, :low], (q[:low] - before[:low]).mul_(self.scale[number]))
            with one_thread():
                self._revisit_columns(number, q[block], slope[block], H[block, block])
        moved = q - before
        error += moved * self.scale[number]
        self.q[columns], self.error[columns] = q, error
        return int(moved.count_nonzero())

    def _rescale(self, number: int, q: Tensor, error: Tensor, slope: Tensor, H: Tensor) -> None:
        """The scale of least loss for these integers, where that is near; ``error`` and ``slope`` follow."""
        centred = q - self.zero_point[number]
        bent = (H @ centred).add_(centred, alpha=self.added)
        along, curvature = (centred * slope).sum(0), (centred * bent).sum(0)
        scale = self.scale[number]
        wanted = scale - torch.where(curvature > 0, along / curvature, 0.0)
        ratio = (wanted / scale).clamp(1 / SCALE_CHANGE, SCALE_CHANGE)
        stored = storable(scale * ratio, self.scale_dtype)
        step = stored - scale
        gain = -(2 * along + step * curvature) * step
        step = torch.where(gain > 0, step, 0.0)  # rounding to scale_dtype may cost more than it brings
        self.gain += gain.clamp_min(0)
        self.scale[number] = torch.where(gain > 0, stored, scale)
        error.addcmul_(centred, step)
        slope.addcmul_(bent, step)

    def _revisit_columns(self, number: int, q: Tensor, slope: Tensor, H: Tensor) -> None:
        """The innermost loop: ``q`` changes in place, each column knowing what those before it did."""
        scale, moves = self.scale[number], torch.empty_like(q)
        diagonal = (H.diagonal() + self.added).tolist()
        for i, (integers, downhill, move) in enumerate(zip(q.unbind(), slope.unbind(), moves.unbind(), strict=True)):
            if i:
                downhill.addmv_(moves[:i].t(), H[:i, i])
            bent = diagonal[i]
            torch.addcdiv(integers, downhill, scale, value=-1 / bent if bent > 0 else 0.0, out=move)  # dead: it stays
            move.round_().clamp_(*self.limits).sub_(integers)
            integers += move
            move *= scale
            self.gain -= move * (2 * downhill + bent * move)


def _members(grid: QuantizedTensor) -> list[Tensor | slice]:
    """The input channels of each group."""
    if grid.g_idx is not None:
        return [torch.nonzero(grid.g_idx == number)[:, 0] for number in range(grid.scale.shape[1])]
    size = grid.group_size or grid.q.shape[1]
    return [slice(start, start + size) for start in range(0, grid.q.shape[1], size)]
