"""LiteRT: an ONNX graph as a ``.tflite`` file, float or on the graph's own integers; no converter stands in between.

What the file holds: a layer's integers and scales as they are, its bias as int32 on the grid of its sums, activations
as int8 (uint8 ``z`` becomes int8 ``z - 128``, the same real numbers). What it cannot: groups of weights and zero points
of weights, which ``holds`` refuses. Memory grows with the model's size alone: twice what is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch

from squeeze.errors import ModelError
from squeeze.formats.grid_kind import GridKind
from squeeze.formats.onnx_grid import take_grids
from squeeze.formats.onnx_macs import give_sizes_of_one_example
from squeeze.models.onnx_model import OnnxModel
from squeeze.runtimes.litert import LiteRt, delegated, stored_weights
from squeeze.writers.as_torch.build import holds
from squeeze.writers.base import Writer
from squeeze.writers.proof import Equality, compared
from squeeze.writers.tflite.graph import tflite_bytes

FILE = "model.tflite"
READER = "LiteRT's interpreter"
DELEGATE = "XNNPACK"


class LiteRtWriter(Writer[OnnxModel]):
    """``model.tflite`` for one example at a time."""

    name = "litert"
    timed_as = "litert"
    extra: ClassVar[str | None] = "litert"

    def holds(self, kind: GridKind) -> str | None:
        return holds(kind)

    def write(self, model: OnnxModel, folder: Path) -> Path:
        LiteRt.require_installed(model.source)
        graph_model = model.copy_ir()
        grids = take_grids(graph_model.graph)
        for name, grid in grids.items():
            if reason := holds(GridKind.of(grid)):
                raise ModelError(f"{name}: {reason}")
        give_sizes_of_one_example(graph_model)
        (folder / FILE).write_bytes(tflite_bytes(graph_model, grids))
        return folder / FILE

    def facts(self, model: OnnxModel, file: Path) -> dict[str, Any]:
        """How many operators the delegate took, and what it left, by name."""
        taken, left = delegated(file)
        kernels = {name: f"{kind} by LiteRT's own kernel" for name, kind in left.items()}
        return {"delegated": {"to": DELEGATE, "operators": [taken, taken + len(left)], "left": kernels}}

    def prove(self, model: OnnxModel, file: Path) -> Iterator[Equality]:
        """Each weight that is integers as LiteRT's interpreter sees it: ``scale * q`` in float32, bit for bit."""
        grids = take_grids(model.copy_ir().graph)
        stored = stored_weights(file)
        for name, grid in grids.items():
            if name not in stored:
                raise ModelError(f"{name}: the .tflite file holds no integers of it")
            yield compared(name, self.name, READER, grid.dequantize(), torch.from_numpy(stored[name]))
