"""ONNX Runtime GenAI: a folder that its generation loop loads, on desktops and phones."""

from __future__ import annotations

from pathlib import Path

from squeeze.models.language.export_genai import write_genai
from squeeze.models.language.runtimes.genai import GenaiDecoder
from squeeze.models.language.runtimes.onnx_decoder import OnnxDecoder
from squeeze.targets.base import Target


class Genai(Target[OnnxDecoder]):
    """A package with the exported decoder's own graph and weights, and the ``genai_config.json`` that GenAI reads."""

    def extras(self) -> tuple[str, ...]:
        return ("genai",)

    def build(self, model: OnnxDecoder, folder: Path) -> GenaiDecoder:
        return write_genai(model, folder)
