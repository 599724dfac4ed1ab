"""Round to nearest as torchao does it for phones (8da4w); its process is ``torchao_process``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from squeeze.formats.grid_kind import ScaleType
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Holds
from squeeze.passes.quantize.backends.backend import Backend


class Torchao(Backend):
    """Quantize with torchao's configuration for ExecuTorch (extra ``mobile``), to compare it with ``rtn`` and ``gptq``.

    ``Int8DynamicActivationIntxWeightConfig``, which the examples of ExecuTorch and optimum-executorch call 8da4w:
    symmetric weights, each rounded alone, and activations that the runtime rounds to int8, each token by its range.
    """

    name: ClassVar[str] = "torchao"
    extra: ClassVar[str | None] = "mobile"
    package: ClassVar[str] = "torchao"
    process: ClassVar[str] = "squeeze.passes.quantize.backends.torchao_process"
    needs: ClassVar[frozenset[str]] = frozenset()

    algorithm: Literal["affine", "hqq_scale_only"] = "affine"
    """How scales are found, as the package calls it."""

    def scale_type(self) -> ScaleType:
        return "bfloat16"

    def faults_before(self, model: LanguageModel, holds: Holds) -> Iterator[str]:
        yield from super().faults_before(model, holds)
        if with_zero_points := [name for name, scheme in self.schemes(model).items() if not scheme.symmetric]:
            yield f"torchao: {with_zero_points[0]}: its configuration has no zero points; symmetric: true would do"

    def settings(self) -> dict[str, Any]:
        return {"algorithm": self.algorithm}
