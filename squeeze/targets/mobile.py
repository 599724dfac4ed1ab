"""Phones: a file for a runtime that fits into an app; so far ONNX Runtime Mobile (``ort``)."""

from __future__ import annotations

from typing import Any, Literal

from squeeze import registry
from squeeze.models.onnx_model import OnnxModel
from squeeze.targets.base import Target
from squeeze.writers.base import Writer

RUNS_IN = {"ort": "onnxruntime"}  # which runtime here scores and verifies what a phone's loads


class Mobile(Target[OnnxModel]):
    """A package with ``model.ort`` and the list of operators for a runtime built with those only."""

    runtime: Literal["ort"] = "ort"
    """What scores and verifies the file: ONNX Runtime Mobile."""

    def writer(self) -> Writer[Any]:
        writer: Writer[Any] = registry.load("writers", self.runtime)()
        return writer

    @property
    def runs_in(self) -> str:
        return RUNS_IN[self.runtime]
