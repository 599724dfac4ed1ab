"""Products of half-precision weights on CPUs without units for them: in float32, a few rows of the weight at a time.

oneDNN does such a product at a fifth of float32's rate, and widens the whole weight to do it. Here the factors are the
same, sums are float32 as there, and the result is rounded to the narrow type as there. float32 activations times narrow
weights are computed the same way, and nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from squeeze.algorithms.units import UNITS, multiplies

LEAST_TOKENS = 64  # with fewer tokens, widening the weight takes longer than the product
ROWS_VALUES = 1 << 20  # weight values widened at once: 4 MB, which stay in the cache until they are multiplied


class _Wide(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """A torch dispatch mode: sees operations below all function modes."""

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.mm.default and _gains(args[0], args[1]):
            return wide_product(args[0], args[1])
        if func is torch.ops.aten.addmm.default and not kwargs and _gains(args[1], args[2]):
            return wide_product(args[1], args[2], args[0])
        if func is torch.ops.aten.bmm.default and args[0].dtype != args[1].dtype:
            return _wide_products(args[0], args[1])
        return func(*args, **(kwargs or {}))


@contextmanager
def wide_products(dtype: torch.dtype, mixed: bool = False) -> Iterator[None]:
    """Linear layers of a model of that type compute in float32 where the CPU has no units for it.

    Args:
        mixed: float32 activations meet weights of that type, which torch by itself refuses to multiply.
    """
    if not mixed and not is_slow(dtype):  # the torch function mode costs a little per torch call
        yield
        return
    with _Wide():  # type: ignore[no-untyped-call]  # torch's own
        yield


def is_slow(dtype: torch.dtype) -> bool:
    """Half precision without units for it."""
    return dtype in UNITS and not multiplies(dtype)


def _gains(left: Tensor, right: Tensor) -> bool:
    if left.dtype != right.dtype:
        return True
    return left.device.type == "cpu" and len(left) >= LEAST_TOKENS and is_slow(left.dtype)


def _wide_products(left: Tensor, right: Tensor) -> Tensor:
    """``[n, tokens, in]`` times ``[n, in, out]``; a weight that torch laid out ``n`` times over is widened once."""
    if right.stride(0) == 0 and right.dtype != torch.float32:
        return wide_product(left.flatten(0, 1), right[0]).view(*left.shape[:2], -1)
    return left.float() @ right.float()


def wide_product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """``[tokens, in]`` times ``[in, out]``, plus ``[out]``; in the type of the factors, computed in float32."""
    values = left.float()
    result = torch.empty(len(left), right.shape[1], dtype=left.dtype)
    step = max(1, ROWS_VALUES // len(right))
    for start in range(0, right.shape[1], step):
        part = slice(start, start + step)
        product = values @ right[:, part].float()
        result[:, part] = product if bias is None else product + bias[part].float()
    return result
