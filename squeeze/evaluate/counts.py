"""What is counted of a model, exactly: its bytes, its weights, its products."""

from __future__ import annotations

from typing import ClassVar

from squeeze.evaluate.metrics import ModelMetric
from squeeze.models.base import Model


class SizeBytes(ModelMetric):
    """Bytes as stored."""

    name, unit = "size_bytes", "bytes"

    def value(self, model: Model) -> int:
        return model.nbytes()


class Parameters(ModelMetric):
    """Number of stored weights."""

    limits: ClassVar[str] = (
        "counted, not estimated: no interval; of an ONNX file what layers hold, biases that are added apart left out; "
        "unknown where an operator of another domain holds weights, and of files whose runtime does not show them"
    )
    unknown: ClassVar[str] = "an operator that is not known holds weights"

    name, unit = "parameters", "count"

    def value(self, model: Model) -> int | None:
        return model.parameters()


class Macs(ModelMetric):
    """Multiply-accumulates for one example; of a language model, per token."""

    limits: ClassVar[str] = (
        "counted, not estimated: convolutions, matrix products, recurrent layers, both products of attention (masked "
        "places too); not additions, activations, norms, pooling. A free size counts as 16; a language model per token "
        "of a prompt of 128 (fewer where it reads fewer), head included. Unknown, never too low: routers among "
        "experts, operators without a rule, sizes known at run time only, files made elsewhere that do not show them"
    )
    unknown: ClassVar[str] = "an operator without a rule, a size known at run time only, or a router among experts"

    name, unit = "macs", "count"

    def value(self, model: Model) -> int | None:
        return model.macs()
