"""Hessians of linear layers: ``H = X^T X / tokens``, what a squared output error costs per input channel and pair.

Shapes: ``X`` is ``[tokens, in]``, so that a loss ``tr (W - Q) H (W - Q)^T`` is the squared error of all outputs, mean
over tokens. Half of a symmetric product is enough, and its factors may be narrow where the CPU has units for that:

- bf16, where it multiplies bf16 (activations of a bf16 model are bf16 already, so their products are exact);
- else int8, where it multiplies int8, several times as fast as float32: each channel of a batch of tokens has its own
  scale, sums are exact integers, and the few tokens that are far larger than the others stay float32 (Dettmers et al.,
  2022, https://arxiv.org/abs/2208.07339). What rounding adds to the diagonal is far below what damping does;
  ``benchmarks/gptq_solver.py`` shows GPTQ's loss beside that of a float32 Hessian.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from squeeze.algorithms.space import MEMORY, Space
from squeeze.algorithms.units import multiplies, multiplies_int8
from squeeze.errors import ShapeError

TILE = 256  # rows of the Hessian per product: the share computed twice is TILE / in
INT8_TILE = 512  # tile for int8 products, which are faster: larger tiles pay
INT8_TOKENS = 512  # fewest tokens that get int8 scales of their own
MOST_TOKENS = 16384  # largest batch; sums of its int8 products reach an eighth of int32
CACHED_VALUES = 1 << 17  # values processed at once; their intermediates fit the cache
USUAL = 4.0  # a token longer than this many median lengths is an outlier


class Hessian:
    """Sums over batches of inputs.

    Args:
        channels: Input channels, ``in``.
        space: Where the sums lie.
    """

    def __init__(self, channels: int, space: Space = MEMORY) -> None:
        self.tokens, self.space = 0, space
        self._lower = space.zeros(channels, channels)
        self._int8 = multiplies_int8()

    def add(self, X: Tensor) -> None:
        """Count a batch ``[..., in]``; leading dimensions are tokens."""
        channels = len(self._lower)
        if X.shape[-1] != channels:
            raise ShapeError(f"inputs have {X.shape[-1]} channels, the Hessian {channels}")
        for tokens in torch.split(X.reshape(-1, channels), MOST_TOKENS):
            self.tokens += len(tokens)
            rest = self._add_usual(tokens) if self._int8 and len(tokens) >= INT8_TOKENS else tokens
            with bf16_products(X.dtype == torch.bfloat16):
                self._add_tiles(rest.float())

    def _add_tiles(self, X: Tensor) -> None:
        for start in range(0, X.shape[1] if len(X) else 0, TILE):
            stop = min(start + TILE, X.shape[1])
            self._lower[start:stop, :stop].addmm_(X[:, start:stop].t(), X[:, :stop])
            self.space.release()

    def _add_usual(self, X: Tensor) -> Tensor:
        """Add all tokens but the outliers as int8, and give those back."""
        lengths = torch.linalg.vector_norm(X, dim=1, dtype=torch.float32)
        outliers = lengths > USUAL * lengths.median()
        q, scale = _rounded(X, outliers)
        for start in range(0, X.shape[1], INT8_TILE):
            stop = min(start + INT8_TILE, X.shape[1])
            sums = torch._int_mm(q[:, start:stop].t(), q[:, :stop]).float()
            self._lower[start:stop, :stop].addcmul_(sums.mul_(scale[start:stop, None]), scale[:stop])
            self.space.release()
        return X[outliers]

    def matrix(self) -> Tensor:
        """float32 ``[in, in]``, symmetric, mean over tokens; zeros when there were none. Nothing may be added after."""
        for start in range(0, len(self._lower), TILE):
            stop = min(start + TILE, len(self._lower))
            self._lower[:start, start:stop] = self._lower[start:stop, :start].t()
            block = self._lower[start:stop, start:stop]
            block.copy_(block.tril() + block.tril(-1).t())
            self.space.release()
        for rows in self.space.parts(0, len(self._lower)):
            self._lower[rows].div_(max(self.tokens, 1))
            self.space.release()
        return self._lower


def _rounded(X: Tensor, without: Tensor) -> tuple[Tensor, Tensor]:
    """int8 ``[tokens, in]`` and one scale per channel, ``[in]``; zeros for the tokens to leave out."""
    rows = max(1, CACHED_VALUES // X.shape[1])
    largest = torch.zeros(X.shape[1])
    for part, left_out in zip(torch.split(X, rows), torch.split(without, rows), strict=True):
        usual = part[~left_out] if bool(left_out.any()) else part
        if len(usual):
            largest = torch.maximum(largest, usual.abs().amax(dim=0))
    scale = largest.div_(127).clamp_min_(1e-30)
    q, inverse = torch.empty(X.shape, dtype=torch.int8), scale.reciprocal()
    for rounded, part in zip(torch.split(q, rows), torch.split(X, rows), strict=True):
        rounded.copy_((part * inverse).round_())
    q[without] = 0
    return q, scale


@contextmanager
def bf16_products(enabled: bool = True) -> Iterator[None]:
    """Float32 products inside may round their factors to bf16, where the CPU has units for that; sums stay float32."""
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # set by torch when it is imported
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16" if enabled and multiplies(torch.bfloat16) else before
    try:
        yield
    finally:
        matmul.fp32_precision = before


def hessian_loss(error: Tensor, H: Tensor, space: Space = MEMORY) -> Tensor:
    """``[out]``, the diagonal of ``error H error^T`` for an error ``[out, in]``; the sum is GPTQ's loss.

    Args:
        space: Where ``H`` lies.
    """
    error = error.float()
    loss = torch.zeros(len(error), dtype=error.dtype, device=error.device)
    for part in space.parts(0, len(H)):
        loss += ((error @ space.columns(H, part).float()) * error[:, part]).sum(dim=1)
        space.release()
    return loss
