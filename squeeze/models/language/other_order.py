"""The same model, its products summed in the other direction: how far rounding alone moves its logits.

Any runtime sums in an order of its own, so this is what a model that did not change may read as.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from squeeze.models.language.language_model import LanguageModel


class InOtherOrder(LanguageModel):
    """Gives the logits of a folder's model, every product summed from its last channel to its first."""

    def logits_at(self, *arguments: Any, **options: Any) -> Iterator[tuple[int, slice, Tensor]]:
        steps = super().logits_at(*arguments, **options)
        while True:
            with _Reversed():  # type: ignore[no-untyped-call]  # torch's own
                step = next(steps, None)
            if step is None:
                return
            yield step


class _Reversed(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Reverses both factors of each product."""

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        aten = torch.ops.aten
        products = (aten.mm.default, aten.bmm.default, aten.matmul.default)
        if func in products and args[0].dim() > 1 and args[1].dim() > 1:
            args = (args[0].flip(-1), args[1].flip(-2))
        elif func is aten.addmm.default:
            args = (args[0], args[1].flip(-1), args[2].flip(-2), *args[3:])
        return func(*args, **(kwargs or {}))
