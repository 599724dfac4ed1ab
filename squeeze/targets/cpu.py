"""Desktop and server processors: an ONNX file for ONNX Runtime."""

from __future__ import annotations

from typing import Literal

from squeeze.models.onnx_model import OnnxModel
from squeeze.runtimes.onnx_decoder import OnnxDecoder
from squeeze.targets.base import Target
from squeeze.writers.onnx import OnnxWriter


class Cpu(Target[OnnxModel | OnnxDecoder]):
    """A package with ``model.onnx``, the very bytes that the last pass left and that were scored."""

    runtime: Literal["onnxruntime"] = "onnxruntime"
    """What scores and verifies the file."""

    def writer(self) -> OnnxWriter:
        return OnnxWriter()

    @property
    def runs_in(self) -> str:
        return self.runtime
