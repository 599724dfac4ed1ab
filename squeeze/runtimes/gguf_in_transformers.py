"""A .gguf file as transformers reads it, with the gguf package: where llama.cpp cannot be built, the file still runs.

The blocks are dequantized into float32 when the file is loaded, so this proves what the file holds and is no way to
save memory.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from squeeze.errors import ModelError, first_line
from squeeze.models.facts import Facts
from squeeze.progress import no_foreign_bars
from squeeze.runtimes.base import GENERATE, Runtime
from squeeze.runtimes.in_transformers import InTransformers, TransformersScript
from squeeze.runtimes.llama_cpp import FILE_NAME, GgufFile


class GgufInTransformers(GgufFile, InTransformers):
    """The file in transformers.

    Raises:
        ModelError: no such file, or an architecture that transformers does not read from GGUF.
    """

    runtime = "transformers-gguf"

    def arithmetic(self) -> str:
        return "transformers: float32 activations, head and logits, blocks dequantized"

    @property
    def vocabulary(self) -> int:
        return int(self.module.get_output_embeddings().weight.shape[0])

    @cached_property
    def module(self) -> Any:
        """The model in memory."""
        from transformers import AutoModelForCausalLM

        self.require_installed(str(self.folder))
        try:
            with no_foreign_bars():
                loaded = AutoModelForCausalLM.from_pretrained(
                    self.folder,
                    gguf_file=FILE_NAME,
                    dtype=torch.float32,
                    local_files_only=True,
                    trust_remote_code=False,
                )
        except Exception as error:  # transformers and gguf raise various exceptions
            raise ModelError(f"{self.main}: transformers cannot read it ({first_line(error)})") from error
        return loaded.eval()


class TransformersGguf(Runtime):
    """transformers on a .gguf file."""

    name = "transformers-gguf"
    distribution = "transformers"
    modules = ("gguf", "accelerate")
    extra = "gguf"
    loads: ClassVar = {GENERATE: (".gguf",)}
    beside = (".gguf", ".json", ".txt", ".model", ".jinja")
    script: ClassVar = {GENERATE: (TransformersScript,)}

    @classmethod
    def decoder(cls, folder: Path, facts: Facts, keeper: object = None) -> GgufInTransformers:
        return GgufInTransformers(folder, facts, keeper)

    @classmethod
    def requirements(cls, file: Path) -> tuple[str, ...]:
        return ("torch", "transformers", "gguf", "accelerate")
