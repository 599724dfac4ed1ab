"""Signed gradient descent on the rounding, as auto-round does it; its process is ``auto_round_process``."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from annotated_types import Gt
from pydantic import PositiveInt

from squeeze.passes.quantize.backends.backend import Backend


class AutoRound(Backend):
    """Quantize with auto-round (extra ``inc``): which way to round, learnt block by block; minutes, not seconds.

    Cheng et al., 2023, https://arxiv.org/abs/2309.05516. Defaults are the package's own.
    """

    name: ClassVar[str] = "auto_round"
    extra: ClassVar[str | None] = "inc"
    package: ClassVar[str] = "auto-round"
    process: ClassVar[str] = "squeeze.passes.quantize.backends.auto_round_process"

    iterations: PositiveInt = 200
    """Steps per block."""
    learning_rate: Annotated[float, Gt(0)] | None = None
    """null: 1 / iterations."""
    batch_size: PositiveInt = 8
    """Sequences per step."""

    def settings(self) -> dict[str, Any]:
        return {"iters": self.iterations, "lr": self.learning_rate, "batch_size": self.batch_size}
