"""Whose packing a folder is in: GPTQ checkpoints by auto-gptq and gptqmodel, compressed-tensors by llm-compressor."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import ModelError
from squeeze.formats import compressed_tensors, compressed_tensors_config, gptq_checkpoint, gptq_config
from squeeze.formats.regular import read_json
from squeeze.formats.words import WORD
from squeeze.models.language.packed import Packed
from squeeze.models.shards import Shards

GPTQ = "gptq"


class GptqFolder(Packed):
    """As auto-gptq and gptqmodel write it."""

    mark, order, parts = "qweight", "g_idx", gptq_checkpoint.PARTS
    config: gptq_config.GptqConfig

    def __init__(self, shards: Shards, values: Mapping[str, Any]) -> None:
        self.config = gptq_config.read_config(values)
        super().__init__(shards)

    def to_grid(self, module: str, parts: Mapping[str, Tensor]) -> QuantizedTensor:
        return gptq_checkpoint.from_tensors(parts, *self.options(module), self.config.version)

    def is_symmetric(self, module: str) -> bool:
        zeros, rows = self.shards.read(f"{module}.qzeros"), self.shapes[f"{module}.weight"][0]
        return gptq_checkpoint.is_symmetric(zeros, self.options(module)[0], self.config.version, rows)

    def _shape(self, module: str) -> tuple[int, int]:
        shapes, (bits, size) = self._shapes_of(module), self.options(module)
        if fault := gptq_checkpoint.shape_fault(shapes, bits, size):
            raise ModelError(f"{self.shards.folder}: {module}: {fault}")
        return shapes["qweight"][1], shapes["qweight"][0] * WORD // bits


class CompressedTensorsFolder(Packed):
    """As llm-compressor writes it and vLLM loads it."""

    mark, order, parts = "weight_packed", "weight_g_idx", compressed_tensors.PARTS

    def __init__(self, shards: Shards, values: Mapping[str, Any]) -> None:
        self.config = compressed_tensors_config.read_config(values)
        super().__init__(shards)

    def to_grid(self, module: str, parts: Mapping[str, Tensor]) -> QuantizedTensor:
        return compressed_tensors.from_tensors(parts, *self.options(module))

    def is_symmetric(self, module: str) -> bool:
        return f"{module}.weight_zero_point" not in self.shards

    def _shape(self, module: str) -> tuple[int, int]:
        name = f"{module}.weight_shape"
        if name not in self.shards or self.shards.pieces[name].shape != (2,):
            raise ModelError(f"{self.shards.folder}: {module}: no weight_shape of two sizes is stored")
        rows, columns = (int(size) for size in self.shards.read(name).tolist())
        shapes = self._shapes_of(module)
        if fault := compressed_tensors.shape_fault(shapes, (rows, columns), *self.options(module)):
            raise ModelError(f"{self.shards.folder}: {module}: {fault}")
        return rows, columns


def packed_folder(folder: Path) -> Packed | None:
    """The packed linears of a folder; None where nobody else quantized it.

    Raises:
        ModelError: what its config says cannot be read.
    """
    values = _packing_config(folder)
    if values is None:
        return None
    kind = CompressedTensorsFolder if values.get("quant_method") == compressed_tensors_config.METHOD else GptqFolder
    base = values.get("model_file_base_name")
    file = folder / f"{base}.safetensors" if isinstance(base, str) and re.fullmatch(r"[\w.-]{1,200}", base) else None
    shards = Shards(folder, [file] if file and file.is_file() else None)
    try:
        return kind(shards, values)
    except ModelError as error:
        where = "" if str(error).startswith(str(folder)) else f"{folder}: "
        raise ModelError(f"{where}{error}") from None


def _packing_config(folder: Path) -> dict[str, Any] | None:
    """What the folder says of its packed weights: in config.json, or in a file of its own (auto-gptq)."""
    config = read_json(folder / "config.json")
    if isinstance(values := config.get("quantization_config"), dict):
        return dict(values)
    file = folder / gptq_config.FILE
    if not file.is_file():
        return None
    values = read_json(file)
    if not isinstance(values, dict):
        raise ModelError(f"{file}: no config can be read here (no JSON object)")
    if values.get("quant_method", GPTQ) != GPTQ:
        raise ModelError(f"{file}: quantized by {values['quant_method']}, which is not read; {GPTQ} would be")
    return values
