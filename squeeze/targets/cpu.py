"""Desktop and server processors: an ONNX file for ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from squeeze.models.artifact import Artifact
from squeeze.models.onnx_model import FILE_NAME, OnnxModel
from squeeze.runtimes.onnx_decoder import OnnxDecoder
from squeeze.targets.base import Built, Target, facts_of


class Cpu(Target[OnnxModel | OnnxDecoder]):
    """A package with ``model.onnx``, the very bytes that the last pass left and that were scored."""

    runtime: Literal["onnxruntime"] = "onnxruntime"
    """What scores and verifies the file."""

    def build(self, model: OnnxModel | OnnxDecoder, folder: Path) -> Built:
        if isinstance(model, OnnxDecoder):
            return model  # its folder is what the runtime loads
        file = folder / FILE_NAME
        file.write_bytes(model.data)
        return Artifact(file, facts_of(model), task=model.task)
