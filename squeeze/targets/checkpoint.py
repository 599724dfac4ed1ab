"""Packed checkpoints: Hugging Face folders that GPU servers and transformers load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from squeeze.formats import compressed_tensors, gptq_checkpoint
from squeeze.formats.grid_kind import GridKind
from squeeze.models.base import Model
from squeeze.models.language.artifact import LanguageFacts
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.options import Unused
from squeeze.runtimes.checkpoint import CheckpointDecoder
from squeeze.targets.base import Built, Target
from squeeze.writers.compressed_tensors import write_compressed_tensors
from squeeze.writers.gptq import write_gptq
from squeeze.writers.proof import prove_compressed_tensors, prove_gptq, proven

TOLERANCE = 5e-3  # of the largest log-probability: linears compute in float16, whose sums differ between processors


class Checkpoint(Target[LanguageModel]):
    """A package with a Hugging Face folder of packed weights, which gptqmodel, vLLM and transformers load."""

    format: Literal["gptq", "compressed-tensors"] = "gptq"
    """How the weights are packed: for gptqmodel and transformers, or for vLLM."""
    version: Literal[1, 2] = 2
    """Of gptq: 1 as auto-gptq wrote it; asymmetric grids need 2."""

    def extras(self) -> tuple[str, ...]:
        return ("gptq",) if self.format == "gptq" else ("compressed-tensors",)

    def unused(self, model: Model, grid: Mapping[str, GridKind] | None) -> Iterator[Unused]:
        if self.format != "gptq":
            yield Unused("version", f"is of format: gptq; {self.format} has one form, leave it out")

    def grid_faults(self, grid: Mapping[str, GridKind]) -> Iterator[str]:
        if not grid:
            yield "packs quantized weights, and none is by then; a pass such as gptq or rtn would make some"
        for name, kind in grid.items():
            if reason := self._holds(kind):
                yield f"{name}: {reason}"
                return  # one tells; the others say the same

    def _holds(self, kind: GridKind) -> str | None:
        return gptq_checkpoint.holds(kind, self.version) if self.format == "gptq" else compressed_tensors.holds(kind)

    def build(self, model: LanguageModel, folder: Path) -> CheckpointDecoder:
        if self.format == "gptq":
            write_gptq(model, folder, self.version)
        else:
            write_compressed_tensors(model, folder)
        return CheckpointDecoder(folder, LanguageFacts(model.parameters(), TOLERANCE, model.macs()))

    def prove(self, model: LanguageModel, built: Built) -> list[dict[str, Any]]:
        assert isinstance(built, CheckpointDecoder)
        prove = prove_gptq if self.format == "gptq" else prove_compressed_tensors
        return proven(prove(model, built.folder))
