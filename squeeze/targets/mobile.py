"""Phones: a file for a runtime that fits into an app: ONNX Runtime Mobile (``ort``) or ExecuTorch (``executorch``)."""

from __future__ import annotations

from typing import Any, Literal

from squeeze import registry
from squeeze.models.onnx_model import OnnxModel
from squeeze.targets.base import Target
from squeeze.writers.base import Writer

RUNS_IN = {"ort": "onnxruntime"}  # which runtime here scores and verifies what a phone's loads, where names differ


class Mobile(Target[OnnxModel]):
    """A package for apps: ``model.ort`` and the operators that it needs, or ``model.pte``."""

    runtime: Literal["ort", "executorch"] = "ort"
    """What runs the file: ONNX Runtime Mobile, or ExecuTorch with XNNPACK (extra mobile; one example at a time)."""

    def writer(self) -> Writer[Any]:
        writer: Writer[Any] = registry.load("writers", self.runtime)()
        return writer

    @property
    def runs_in(self) -> str:
        return RUNS_IN.get(self.runtime, self.runtime)
