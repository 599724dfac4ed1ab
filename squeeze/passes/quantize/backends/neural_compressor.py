"""GPTQ as neural-compressor does it; its process is ``neural_compressor_process``."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval

from squeeze.passes.quantize.backends.backend import Backend

ORDERS = {"given": {}, "act_order": {"act_order": True}, "group_aware": {"hybrid_order": True}}


class NeuralCompressor(Backend):
    """Quantize with neural-compressor's GPTQ (extra ``inc``), to compare it with ``gptq``; its own defaults."""

    name: ClassVar[str] = "neural_compressor"
    extra: ClassVar[str | None] = "inc"
    package: ClassVar[str] = "neural-compressor"
    process: ClassVar[str] = "squeeze.passes.quantize.backends.neural_compressor_process"

    damping: Annotated[float, Interval(gt=0, lt=1)] = 0.01
    """Share of the mean diagonal added to the Hessian."""
    order: Literal["given", "act_order", "group_aware"] = "given"
    """Order in which columns are rounded, as in gptq."""
    mse: bool = False
    """Search the scales of least squared error."""
    static_groups: bool = False
    """Choose all scales from the original weights."""
    true_sequential: bool = False
    """Later weights of a block are calibrated on the outputs of its quantized earlier ones."""

    def settings(self) -> dict[str, Any]:
        return {
            "percdamp": self.damping,
            "use_mse_search": self.mse,
            "static_groups": self.static_groups,
            "true_sequential": self.true_sequential,
            **ORDERS[self.order],
        }
