"""Hessians of linear layers: ``H = X^T X / tokens``, what a squared output error costs per input channel and pair.

Shapes: ``X`` is ``[tokens, in]``, so that a loss ``tr (W - Q) H (W - Q)^T`` is the squared error of all outputs, mean
over tokens. Half of a symmetric product is enough; bf16 activations are multiplied as bf16 where the CPU has units for
it (their products are exact, sums are float32), several times as fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

from squeeze.errors import ShapeError

TILE = 256  # rows of the Hessian per product: the share computed twice is TILE / in


class Hessian:
    """Sums over batches of inputs.

    Args:
        channels: Input channels, ``in``.
    """

    def __init__(self, channels: int, device: torch.device | str = "cpu") -> None:
        self.tokens = 0
        self._lower = torch.zeros(channels, channels, device=device)
        self._sum = torch.zeros(channels, device=device)

    def add(self, X: Tensor) -> None:
        """Count a batch ``[..., in]``; leading dimensions are tokens."""
        channels = len(self._sum)
        if X.shape[-1] != channels:
            raise ShapeError(f"inputs have {X.shape[-1]} channels, the Hessian {channels}")
        tokens = X.reshape(-1, channels)
        self.tokens += len(tokens)
        with bf16_products(X.dtype == torch.bfloat16):
            self._add_tiles(tokens.float())

    def _add_tiles(self, X: Tensor) -> None:
        self._sum += X.sum(dim=0)
        for start in range(0, X.shape[1], TILE):
            stop = min(start + TILE, X.shape[1])
            self._lower[start:stop, :stop].addmm_(X[:, start:stop].t(), X[:, :stop])

    def matrix(self) -> Tensor:
        """float32 ``[in, in]``, symmetric, mean over tokens; zeros when there were none. Nothing may be added after."""
        for start in range(0, len(self._sum), TILE):
            stop = min(start + TILE, len(self._sum))
            self._lower[:start, start:stop] = self._lower[start:stop, :start].t()
        return self._lower.div_(max(self.tokens, 1))

    def mean(self) -> Tensor:
        """``[in]``, the mean input."""
        return self._sum / max(self.tokens, 1)


@contextmanager
def bf16_products(wanted: bool = True) -> Iterator[None]:
    """Float32 products inside may round their factors to bf16, where the CPU has units for that; sums stay float32."""
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # set by torch when it is imported
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16" if wanted and _has_bf16_units() else before
    try:
        yield
    finally:
        matmul.fp32_precision = before


@lru_cache(maxsize=1)
def _has_bf16_units() -> bool:
    """Without them oneDNN multiplies float32 after all, but a little slower than the library that torch uses else."""
    can_do = torch.cpu.get_capabilities()
    return bool(can_do.get("amx_bf16") or can_do.get("avx512_bf16"))


def hessian_loss(error: Tensor, H: Tensor) -> Tensor:
    """``[out]``, the diagonal of ``error H error^T`` for an error ``[out, in]``; the sum is GPTQ's loss."""
    return ((error.float() @ H.float()) * error.float()).sum(dim=1)
