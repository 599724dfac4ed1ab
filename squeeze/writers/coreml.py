"""Core ML: an ONNX graph as a ``.mlpackage``, float or on the graph's own integers, for iOS 17, macOS 14 and later.

What the file holds: a layer's integers, scales and zero points as they are (8 bits per channel; 4 bits and groups of
input channels need iOS 18), its bias as float32, activations that the graph rounds to integers as ``quantize`` and
``dequantize`` with the graph's own scales and zero points, everything else in the graph's own floats: float32, which
Core ML gives to the processor and the GPU, or float16, which the Neural Engine takes too. Floats that float16 holds
exactly are stored as such. What it cannot: 2 and 3 bits, groups in the order of act_order and, which no pass makes,
groups that cut a convolution's window.

Core ML runs on Apple's systems alone. Elsewhere the file is written, read back and compared, and never run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import ModelError
from squeeze.formats.grid_kind import GridKind
from squeeze.formats.mil_program import StoredWeight
from squeeze.formats.mlpackage import read_mlpackage, root_of
from squeeze.formats.onnx_grid import take_grids
from squeeze.formats.onnx_macs import give_sizes_of_one_example
from squeeze.models.onnx_model import OnnxModel
from squeeze.runtimes.coreml import CoreMl
from squeeze.writers.base import Writer
from squeeze.writers.mil.graph import mil_program, misfits
from squeeze.writers.mil.layers import holds
from squeeze.writers.mil.names import weight_names
from squeeze.writers.mil.package import write_mlpackage
from squeeze.writers.proof import Equality, compared

READER = "coremltools' protobuf and blob reader"


class CoreMlWriter(Writer[OnnxModel]):
    """``model.mlpackage`` for one example at a time."""

    name = "coreml"
    extra: ClassVar[str | None] = "coreml"

    def holds(self, kind: GridKind) -> str | None:
        return holds(kind)

    def faults(self, model: OnnxModel) -> Iterator[str]:
        return misfits(model.ir.graph)

    def write(self, model: OnnxModel, folder: Path) -> Path:
        CoreMl.require_installed(model.source)
        graph_model = model.copy_ir()
        grids = take_grids(graph_model.graph)
        give_sizes_of_one_example(graph_model)
        program, target = mil_program(graph_model, grids)
        return write_mlpackage(program, target, folder)

    def prove(self, model: OnnxModel, file: Path) -> Iterator[Equality]:
        """Each weight that is integers as read back: the integers, and ``scale * (q - zero_point)`` in float32."""
        grids = take_grids(model.copy_ir().graph)
        stored = {weight.name: weight for weight in read_mlpackage(root_of(file)).weights()}
        for layer, name in weight_names(grids).items():
            if name not in stored:
                raise ModelError(f"{layer}: the .mlpackage holds no integers of it")
            yield from _equalities(layer, grids[layer], stored[name])


def _equalities(layer: str, grid: QuantizedTensor, stored: StoredWeight) -> Iterator[Equality]:
    """Integers and what they stand for."""
    q = grid.q.numpy()
    read = stored.q.reshape(q.shape)
    yield Equality(layer, CoreMlWriter.name, READER, f"int{stored.bits}", q.size, int(np.count_nonzero(q != read)))
    real = torch.from_numpy(stored.real().reshape(q.shape))
    yield compared(layer, CoreMlWriter.name, READER, grid.dequantize().float(), real)
