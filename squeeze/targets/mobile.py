"""Phones: a file for a runtime that fits into an app: ONNX Runtime Mobile (``ort``), ExecuTorch, LiteRT or Core ML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import PositiveInt

from squeeze import registry
from squeeze.formats.grid_kind import GridKind
from squeeze.models.base import Model
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.onnx_model import OnnxModel
from squeeze.models.options import Unused
from squeeze.models.tasks.base import TOKENS
from squeeze.targets.base import Target
from squeeze.writers.base import Writer
from squeeze.writers.executorch_decoder import ExecuTorchDecoderWriter

RUNS_IN = {"ort": "onnxruntime"}  # which runtime here scores and verifies what a phone's loads, where names differ


class Mobile(Target[OnnxModel | LanguageModel]):
    """A package for apps: ``model.ort`` and the operators that it needs, ``model.tflite``, ``model.mlpackage``, or
    ``model.pte``, also of language models."""

    runtime: Literal["ort", "executorch", "litert", "coreml"] = "ort"
    """What runs the file: ONNX Runtime Mobile, ExecuTorch (extra mobile) or LiteRT (extra litert), these two with
    XNNPACK and one example at a time, or Core ML (extra coreml), which runs on Apple's systems alone: elsewhere its
    file is written and read back, and has no score."""
    context: PositiveInt | None = None
    """Tokens of a text that a language model's cache in the program has room for; null: 512, or as many as the model
    can read."""

    def writer(self) -> Writer[Any]:
        writer: Writer[Any] = registry.load("writers", self.runtime)()
        return writer

    def writer_of(self, model: Model | None) -> Writer[Any]:
        if self.runtime == "executorch" and model is not None and _generates(model):
            return ExecuTorchDecoderWriter(self.context)
        return self.writer()

    def counted_context(self, model: Model) -> int:
        return ExecuTorchDecoderWriter(self.context).window_of(model.context)

    @property
    def runs_in(self) -> str:
        return RUNS_IN.get(self.runtime, self.runtime)

    def faults(self, model: Model) -> Iterator[str]:
        if self.runtime != "executorch" and _generates(model):
            would = "runtime: executorch would, target: genai is ONNX Runtime's"
            yield f"runtime {self.runtime} takes no language model; {would}"
        elif self.runtime != "ort" and model.reads_tokens() and not _generates(model):
            yield f"runtime {self.runtime} takes no encoder of texts; runtime: ort would"
        else:
            yield from super().faults(model)

    def grid_faults(self, grid: Mapping[str, GridKind], model: Model | None = None) -> Iterator[str]:
        if self.runtime != "executorch" and model is not None and _generates(model):
            return iter(())  # faults() reports the model itself
        return super().grid_faults(grid, model)

    def unused(self, model: Model, grid: Mapping[str, GridKind] | None) -> Iterator[Unused]:
        if not _generates(model):
            yield from super().unused(model, grid)
            yield Unused("context", "applies to language models only: leave it out")
        else:
            yield Unused("device_context", "is counted at context, which is compiled in: leave it out")


def _generates(model: Model) -> bool:
    """Whether its outputs are next tokens."""
    return model.task.outputs == TOKENS
