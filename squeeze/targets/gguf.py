"""GGUF: one file for llama.cpp and all that is built on it, phones among them."""

from __future__ import annotations

from typing import ClassVar, Literal

from squeeze.models.facts import Facts
from squeeze.models.language.language_model import LanguageModel
from squeeze.targets.base import Target
from squeeze.writers.gguf import GgufWriter

TOLERANCE = 1e-2  # relative to the largest log-probability: int8 activations differ between processors


class Gguf(Target[LanguageModel]):
    """A package with ``model.gguf``: Q4_0, Q4_1 and Q8_0 blocks exactly from the grid, the rest as it is."""

    cache_element_bytes: ClassVar[int] = 2  # llama.cpp keeps float16

    runtime: Literal["llama.cpp", "transformers"] = "llama.cpp"
    """What scores and verifies the file, which is the same either way."""

    def adapter_fault(self) -> str | None:
        return None if self.runtime == "llama.cpp" else "runtime: transformers reads no adapter; llama.cpp does"

    def writer(self) -> GgufWriter:
        return GgufWriter()

    @property
    def runs_in(self) -> str:
        return "llama.cpp" if self.runtime == "llama.cpp" else "transformers-gguf"

    def facts(self, model: LanguageModel) -> Facts:
        return Facts(model.parameters(), TOLERANCE, model.macs())
