"""ONNX Runtime GenAI: a folder that its generation loop loads, on desktops and phones."""

from __future__ import annotations

from pathlib import Path

from squeeze.runtimes.genai import GenaiDecoder
from squeeze.runtimes.onnx_decoder import OnnxDecoder
from squeeze.targets.base import Target
from squeeze.writers.genai import write_genai


class Genai(Target[OnnxDecoder]):
    """A package with the exported decoder's own graph and weights, and the ``genai_config.json`` that GenAI reads."""

    def extras(self) -> tuple[str, ...]:
        return ("genai",)

    def build(self, model: OnnxDecoder, folder: Path) -> GenaiDecoder:
        return write_genai(model, folder)
