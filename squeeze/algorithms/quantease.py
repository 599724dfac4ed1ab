"""Coordinate descent on a quantized weight: update each scale, then each integer, others fixed.

Minimises GPTQ's loss ``tr (W - Q) H (W - Q)^T``; no step raises it. GPTQ rounds each column once, before it knows the
later ones; here every integer is updated again, given all others. Behdin et al., "QuantEase", 2023,
https://arxiv.org/abs/2309.01885; the optimal scale of a group has a closed form as well.

Tensors are transposed, ``[in, out]``, so that a column of the weight is contiguous. Output channels are independent and
are processed in parts. One round costs one ``H x W`` product and a loop over columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor, integer_range
from squeeze.algorithms.rtn import storable
from squeeze.algorithms.space import MEMORY, Space
from squeeze.algorithms.threads import one_thread

ROWS = 4096  # output channels at once
BLOCK = 32  # columns updated one by one: their updates stay in the cache
SCALE_CHANGE = 2.0  # largest factor by which one update changes a scale


@dataclass(frozen=True)
class Refined:
    """A grid after coordinate descent.

    Args:
        grid: The same scheme, other integers and scales.
        gain: float32 ``[out]``, decrease of the loss, without damping.
    """

    grid: QuantizedTensor
    gain: Tensor


def quantease(
    weight: Tensor,
    grid: QuantizedTensor,
    H: Tensor,
    rounds: int,
    added: float = 0.0,
    scale_dtype: torch.dtype = torch.float16,
    space: Space = MEMORY,
) -> Refined:
    """Lower the loss of a grid that another method chose.

    Args:
        weight: ``[out, in]``, the weight before quantization.
        H: float32 ``[in, in]``, symmetric, not damped.
        rounds: Most updates of each scale and integer; ends earlier when no integer changes.
        added: Damping added to the diagonal of ``H``, in its units; the damped loss is minimised.
        scale_dtype: Scales are exactly representable in it afterwards.
        space: Where ``H`` lies.
    """
    if not rounds:
        return Refined(grid, torch.zeros(len(weight)))
    parts = []
    for start in range(0, len(weight), ROWS):
        part = _Part(weight[start : start + ROWS], grid.rows(slice(start, start + ROWS)), H, added, scale_dtype)
        for _ in range(rounds):
            if not part.update(space):
                break
        parts.append(part)
    q, scale = torch.cat([part.q.t().to(torch.int8) for part in parts]), torch.cat([part.scale.t() for part in parts])
    refined = QuantizedTensor(q, scale, grid.zero_point, grid.bits, grid.group_size, grid.symmetric, grid.g_idx)
    return Refined(refined, torch.cat([part.undamped_gain() for part in parts]))


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

    def update(self, space: Space) -> int:
        """Update every group once; returns the number of integers that changed."""
        changed = 0
        for number, columns in enumerate(self.groups):
            changed += self._update_group(number, columns)
            space.release()
        return changed

    def undamped_gain(self) -> Tensor:
        """``[out]``, the decrease of the loss without the damping term."""
        return self.gain - self.added * (self.squares - self.error.square().sum(0))

    def _update_group(self, number: int, columns: Tensor | slice) -> int:
        H = self.H[columns]
        q, error = self.q[columns], self.error[columns]
        slope, H = (
            (H @ self.error).add_(error, alpha=self.added),
            H[:, columns].clone(),
        )  # half the gradient of the loss
        H.diagonal().add_(self.added)
        self._rescale(number, q, error, slope, H)
        scale = self.scale[number]
        moves = _moves(q, slope / scale, H, self.limits)
        change = moves * scale
        self.gain -= (change * (H @ change).add_(slope, alpha=2)).sum(0)
        self.q[columns], self.error[columns] = q + moves, error.add_(change)
        return int(moves.count_nonzero())

    def _rescale(self, number: int, q: Tensor, error: Tensor, slope: Tensor, H: Tensor) -> None:
        """Set the optimal scale for these integers, within ``SCALE_CHANGE``; updates ``error`` and ``slope``."""
        centred = q - self.zero_point[number]
        bent = H @ centred
        along, curvature = (centred * slope).sum(0), (centred * bent).sum(0)
        scale = self.scale[number]
        optimal = scale - torch.where(curvature > 0, along / curvature, 0.0)
        ratio = (optimal / scale).clamp(1 / SCALE_CHANGE, SCALE_CHANGE)
        stored = storable(scale * ratio, self.scale_dtype)
        step = stored - scale
        gain = -(2 * along + step * curvature) * step
        step = torch.where(gain > 0, step, 0.0)  # rounding to scale_dtype may cost more than the step gains
        self.gain += gain.clamp_min(0)
        self.scale[number] = torch.where(gain > 0, stored, scale)
        error.addcmul_(centred, step)
        slope.addcmul_(bent, step)


def _moves(q: Tensor, slope: Tensor, H: Tensor, limits: tuple[int, int]) -> Tensor:
    """Changes of a group's integers, ``[size, out]``, one after the other, each given those before it.

    Args:
        q: ``[size, out]``.
        slope: The same shape, gradient divided by the scale; overwritten.
        H: ``[size, size]``, of the group, damped.
    """
    moves = torch.empty_like(q)
    for low in range(0, len(q), BLOCK):
        block = slice(low, low + BLOCK)
        slope[block].addmm_(H[block, :low], moves[:low])
        with one_thread():
            _move_columns(q[block], slope[block], H[block, block], moves[block], limits)
    return moves


def _move_columns(q: Tensor, slope: Tensor, H: Tensor, moves: Tensor, limits: tuple[int, int]) -> None:
    """The innermost loop: five operations on a contiguous row of ``out`` values; writes ``moves``."""
    bends = H.diagonal().tolist()
    for i, (integers, downhill, move) in enumerate(zip(q.unbind(), slope.unbind(), moves.unbind(), strict=True)):
        if i:
            downhill.addmv_(moves[:i].t(), H[:i, i])
        step = -1 / bends[i] if bends[i] > 0 else 0.0  # dead channel: no change
        torch.add(integers, downhill, alpha=step, out=move).round_().clamp_(*limits).sub_(integers)


def _members(grid: QuantizedTensor) -> list[Tensor | slice]:
    """The input channels of each group."""
    if grid.g_idx is not None:
        return [torch.nonzero(grid.g_idx == number)[:, 0] for number in range(grid.scale.shape[1])]
    size = grid.group_size or grid.q.shape[1]
    return [slice(start, start + size) for start in range(0, grid.q.shape[1], size)]
