"""ONNX Runtime GenAI: a folder that its generation loop loads, on desktops and phones."""

from __future__ import annotations

from squeeze.runtimes.onnx_decoder import OnnxDecoder
from squeeze.targets.base import Target
from squeeze.writers.genai import GenaiWriter


class Genai(Target[OnnxDecoder]):
    """A package with the exported decoder's own graph and weights, and the ``genai_config.json`` that GenAI reads."""

    def writer(self) -> GenaiWriter:
        return GenaiWriter()

    @property
    def runs_in(self) -> str:
        return "onnxruntime-genai"
