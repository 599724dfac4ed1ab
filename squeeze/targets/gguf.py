"""GGUF: one file for llama.cpp and all that is built on it, phones among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

from squeeze.formats.gguf_blocks import WIDE_BLOCK, fits_two_bits
from squeeze.formats.grid_kind import GridKind
from squeeze.models.base import Model
from squeeze.models.facts import Facts
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.options import Unused
from squeeze.runtimes.ggml import two_bits_fault
from squeeze.targets.base import Target
from squeeze.writers.gguf import GgufWriter

TOLERANCE = 1e-2  # relative to the largest log-probability: int8 activations differ between processors


class Gguf(Target[LanguageModel]):
    """A package with ``model.gguf``: blocks exactly from the grid, the rest as it is."""

    cache_element_bytes: ClassVar[int] = 2  # llama.cpp keeps float16

    runtime: Literal["llama.cpp", "transformers"] = "llama.cpp"
    """What scores and verifies the file, which is the same either way."""
    q2_0: bool = False
    """Symmetric grids of 2 bits in groups of 64 as Q2_0, in half of Q4_0's bytes; llama.cpp runs it far slower."""

    def adapter_fault(self) -> str | None:
        return None if self.runtime == "llama.cpp" else "runtime: transformers reads no adapter; llama.cpp does"

    def writer(self) -> GgufWriter:
        return GgufWriter(self.q2_0)

    def faults(self, model: Model) -> Iterator[str]:
        yield from super().faults(model)
        if self.q2_0 and self.runtime != "llama.cpp":
            yield f"q2_0: is for runtime: llama.cpp; {self.runtime} cannot read it"
        elif self.q2_0 and (fault := two_bits_fault()):
            yield f"q2_0: {fault}"

    def unused(self, model: Model, grid: Mapping[str, GridKind] | None) -> Iterator[Unused]:
        yield from super().unused(model, grid)
        if self.q2_0 and grid is not None and not any(map(fits_two_bits, grid.values())):
            yield Unused("q2_0", f"is for symmetric grids of 2 bits in groups of {WIDE_BLOCK}, and no weight has one")

    @property
    def runs_in(self) -> str:
        return "llama.cpp" if self.runtime == "llama.cpp" else "transformers-gguf"

    def facts(self, model: LanguageModel) -> Facts:
        return Facts(model.parameters(), TOLERANCE, model.macs())
