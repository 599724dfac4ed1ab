"""Phones: a file for a runtime that fits into an app.

Each runtime is one builder; so far ONNX Runtime Mobile (``ort``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from squeeze.models.artifact import Artifact
from squeeze.models.onnx_model import OnnxModel
from squeeze.targets.base import Target, facts_of
from squeeze.targets.verify import OPERATORS
from squeeze.writers.ort import operator_list, write_ort


class Mobile(Target[OnnxModel]):
    """A package with ``model.ort`` and the list of operators for a runtime built with those only."""

    runtime: Literal["ort"] = "ort"
    """What scores and verifies the file: ONNX Runtime Mobile."""

    def build(self, model: OnnxModel, folder: Path) -> Artifact:
        return BUILDERS[self.runtime](model, folder)


def build_ort(model: OnnxModel, folder: Path) -> Artifact:
    """ONNX Runtime Mobile."""
    file, operators = folder / "model.ort", folder / OPERATORS
    write_ort(model.data, file)
    operators.write_text(operator_list(file))
    return Artifact(file, facts_of(model), beside=(operators,), task=model.task)


BUILDERS: dict[str, Callable[[OnnxModel, Path], Artifact]] = {"ort": build_ort}
