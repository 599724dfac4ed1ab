"""Packed checkpoints: Hugging Face folders that GPU servers and transformers load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from squeeze.formats.grid_kind import GridKind
from squeeze.models.base import Model
from squeeze.models.facts import Facts
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.options import Unused
from squeeze.targets.base import Target
from squeeze.writers.base import Writer
from squeeze.writers.compressed_tensors import CompressedTensorsWriter
from squeeze.writers.gptq import GptqWriter

TOLERANCE = 5e-3  # relative to the largest log-probability: float16 sums differ between processors


class Checkpoint(Target[LanguageModel]):
    """A package with a Hugging Face folder of packed weights, which gptqmodel, vLLM and transformers load."""

    format: Literal["gptq", "compressed-tensors"] = "gptq"
    """How the weights are packed: for gptqmodel and transformers, or for vLLM."""
    version: Literal[1, 2] = 2
    """Of gptq: 1 as auto-gptq wrote it; asymmetric grids need 2."""

    def unused(self, model: Model, grid: Mapping[str, GridKind] | None) -> Iterator[Unused]:
        if self.format != "gptq":
            yield Unused("version", f"is of format: gptq; {self.format} has one form, leave it out")

    def grid_faults(self, grid: Mapping[str, GridKind], model: Model | None = None) -> Iterator[str]:
        if not grid:
            yield "packs quantized weights, and none is by then; a pass such as gptq or rtn would make some"
        yield from self.writer().grid_faults(grid)

    def writer(self) -> Writer[LanguageModel]:
        return GptqWriter(self.version) if self.format == "gptq" else CompressedTensorsWriter()

    @property
    def runs_in(self) -> str:
        return "transformers"

    def facts(self, model: LanguageModel) -> Facts:
        return Facts(model.parameters(), TOLERANCE, model.macs())
