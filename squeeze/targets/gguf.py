"""GGUF: one file for llama.cpp and all that is built on it, phones among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from squeeze.errors import SqueezeError
from squeeze.formats import gguf_blocks
from squeeze.formats.grid_kind import GridKind
from squeeze.models.base import Model
from squeeze.models.language.artifact import LanguageFacts
from squeeze.models.language.dense import copy_side_files
from squeeze.models.language.language_model import LanguageModel
from squeeze.runtimes.gguf_in_transformers import GgufInTransformers
from squeeze.runtimes.llama_cpp import FILE_NAME, GgufDecoder
from squeeze.targets.base import Built, Target
from squeeze.writers.gguf import architecture_of, write_gguf
from squeeze.writers.proof import prove_gguf, proven

TOLERANCE = 1e-2  # of the largest log-probability: llama.cpp rounds activations to int8, on each processor its way


class Gguf(Target[LanguageModel]):
    """A package with ``model.gguf``: Q4_0, Q4_1 and Q8_0 blocks exactly from the grid, the rest as it is."""

    runtime: Literal["llama.cpp", "transformers"] = "llama.cpp"
    """What scores and verifies the file, which is the same either way."""

    def extras(self) -> tuple[str, ...]:
        return ("gguf", "llama-cpp") if self.runtime == "llama.cpp" else ("gguf",)

    def faults(self, model: Model) -> Iterator[str]:
        if isinstance(model, LanguageModel):
            try:
                architecture_of(model)
            except SqueezeError as error:
                yield str(error)

    def grid_faults(self, grid: Mapping[str, GridKind]) -> Iterator[str]:
        for name, kind in grid.items():
            if reason := gguf_blocks.holds(kind):
                yield f"{name}: {reason}"
                return  # one tells; the others say the same

    def build(self, model: LanguageModel, folder: Path) -> Built:
        copy_side_files(model.folder, folder)
        write_gguf(model, folder / FILE_NAME)
        facts = LanguageFacts(model.parameters(), TOLERANCE, model.macs())
        return GgufDecoder(folder, facts) if self.runtime == "llama.cpp" else GgufInTransformers(folder, facts)

    def prove(self, model: LanguageModel, built: Built) -> list[dict[str, Any]]:
        assert isinstance(built, GgufDecoder | GgufInTransformers)
        return proven(prove_gguf(model, built.main))
