"""GPTQ as gptqmodel does it; its process is ``gptqmodel_process``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Interval
from pydantic import PositiveInt

from squeeze.formats.gptq_checkpoint import holds
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.quantize.backends.backend import Backend


class Gptqmodel(Backend):
    """Quantize with gptqmodel's GPTQ (extra ``gptq``), to compare it with ``gptq``; defaults are the package's own."""

    name: ClassVar[str] = "gptqmodel"
    extra: ClassVar[str | None] = "gptq"
    package: ClassVar[str] = "gptqmodel"
    process: ClassVar[str] = "squeeze.passes.quantize.backends.gptqmodel_process"
    environment: ClassVar[dict[str, str]] = {"GPTQMODEL_CPU_WORKERS": "2"}  # more threads starve each other

    damping: Annotated[float, Interval(gt=0, lt=1)] = 0.05
    """Share of the mean diagonal added to the Hessian."""
    act_order: bool = False
    """Columns with the largest inputs first, groups broken up; false: groups kept whole."""
    mse: Annotated[float, Ge(0)] = 0.0
    """Norm of the error that scales are searched for (2.4 is usual); 0: no search."""
    asymmetric_calibration: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """GPTAQ's alpha; 0: plain GPTQ."""
    batch_size: PositiveInt = 8
    """Sequences that go through a block together."""

    def settings(self) -> dict[str, Any]:
        return {
            "damp_percent": self.damping,
            "desc_act": self.act_order,
            "act_group_aware": not self.act_order,
            "mse": self.mse,
            "alpha": self.asymmetric_calibration,
            "batch_size": self.batch_size,
        }

    def faults(self, model: LanguageModel) -> Iterator[str]:
        yield from super().faults(model)
        shapes = model.matrices()
        kinds = [(name, self.kind(shapes[name], scheme)) for name, scheme in self.schemes(model).items()]
        refused = [(name, reason) for name, kind in kinds if (reason := holds(kind, 1 if kind.symmetric else 2))]
        if refused:
            yield f"{self.name}: {refused[0][0]} and {len(refused) - 1} more: {refused[0][1]}"
