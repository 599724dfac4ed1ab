"""A folder that others quantized, read into the grid without requantizing: GPTQ checkpoints and compressed-tensors.

A packed linear lies on disk as several tensors; here it is one piece of the weight's own name and shape, so that
whoever matches stored names to a module's sees a plain folder.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import ModelError
from squeeze.formats import compressed_tensors, compressed_tensors_config, gptq_checkpoint, gptq_config
from squeeze.formats.words import WORD, dtype_fault
from squeeze.models.language.grid_file import GridEntry
from squeeze.models.language.names import Found
from squeeze.models.language.shards import Piece, Shards

GPTQ = "gptq"


class Packed(ABC):
    """The packed linears of a folder.

    Raises:
        ModelError: tensors that do not belong together, by name.
    """

    mark: ClassVar[str]  # the part that every packed linear has
    parts: ClassVar[tuple[str, ...]]

    def __init__(self, shards: Shards) -> None:
        self.shards = shards
        ending = f".{self.mark}"
        modules = [name.removesuffix(ending) for name in shards.pieces if name.endswith(ending)]
        if not modules:
            raise ModelError(f"{shards.folder}: its config says that it is packed, and no tensor ends in {ending}")
        for module in modules:
            self._require_types(module)
        self.shapes = {f"{module}.weight": self._shape(module) for module in modules}
        self.found = Found()

    @property
    def pieces(self) -> dict[str, Piece]:
        """All tensors of the folder, a packed linear as one under the name of its weight."""
        plain = {name: piece for name, piece in self.shards.pieces.items() if not self._is_part(name)}
        first = {name: self.shards.pieces[f"{_module(name)}.{self.mark}"].file for name in self.shapes}
        return plain | {name: Piece(first[name], name, shape) for name, shape in self.shapes.items()}

    def entries(self, found: Found, module: nn.Module) -> dict[str, GridEntry]:
        """By name in the module, what is stored of each packed weight.

        Raises:
            ModelError: experts of one weight that are packed differently, or a bias that the module has no place for.
        """
        self.found = found
        self._require_no_lost_bias(found)
        dtype = self._dtype(found)
        entries: dict[str, GridEntry] = {}
        for name, _ in module.named_parameters():
            stored = self._stored(name)
            if not any(linear in self.shapes for linear in stored):
                continue
            grids = {self._scheme(linear) for linear in stored if linear in self.shapes}
            if len(grids) > 1 or not all(linear in self.shapes for linear in stored):
                raise ModelError(f"{self.shards.folder}: the experts of {name} are packed differently")
            (bits, size, symmetric, ordered) = grids.pop()
            if ordered and len(stored) > 1:
                raise ModelError(f"{self.shards.folder}: the experts of {name} have group indices of their own")
            shape = found.stacked[name].shape if name in found.stacked else self.shapes[stored[0]]
            entries[name] = GridEntry(tuple(shape), bits, size, symmetric, dtype)
        return entries

    def grid(self, name: str) -> QuantizedTensor:
        """The grid of a packed weight by its name in the module; experts lie one under the other."""
        grids = [self._read(linear) for linear in self._stored(name)]
        if len(grids) == 1:
            return grids[0]
        first = grids[0]
        q, scale, zero = (torch.cat([getattr(grid, part) for grid in grids]) for part in ("q", "scale", "zero_point"))
        symmetric = not bool(zero.any())
        return QuantizedTensor(q, scale, zero, first.bits, first.group_size, symmetric)

    def ordered(self, name: str) -> bool:
        """True where groups are not consecutive channels."""
        return self._scheme(self._stored(name)[0])[3]

    def nbytes(self, name: str) -> int:
        """Bytes of a packed weight on disk."""
        parts = [part for linear in self._stored(name) for part in self._tensors(_module(linear))]
        return sum(self.shards.read(part).nbytes for part in parts)

    @abstractmethod
    def options(self, module: str) -> tuple[int, int | None]:
        """Bits and group size of a module, as the config says."""

    @abstractmethod
    def to_grid(self, module: str, parts: Mapping[str, Tensor]) -> QuantizedTensor:
        """The grid of a linear's tensors."""

    @abstractmethod
    def index(self, module: str) -> Tensor | None:
        """The group of each input channel, where they are not consecutive."""

    @abstractmethod
    def is_symmetric(self, module: str) -> bool:
        """True where all zero points are 0."""

    @abstractmethod
    def _shape(self, module: str) -> tuple[int, int]:
        """``[out, in]`` of a linear, whose tensors are seen to belong together."""

    def _read(self, linear: str) -> QuantizedTensor:
        module = _module(linear)
        parts = {name.removeprefix(f"{module}."): self.shards.read(name) for name in self._tensors(module)}
        try:
            return self.to_grid(module, parts)
        except ModelError as error:
            raise ModelError(f"{self.shards.folder}: {module}: {error}") from None

    def _scheme(self, linear: str) -> tuple[int, int | None, bool, bool]:
        module = _module(linear)
        try:
            ordered = self.index(module) is not None
        except ModelError as error:
            raise ModelError(f"{self.shards.folder}: {module}: {error}") from None
        return (*self.options(module), self.is_symmetric(module), ordered)

    def _stored(self, name: str) -> list[str]:
        """The stored linears of a weight, experts in order."""
        if name in self.found.stacked:
            return [piece.name for parts in self.found.stacked[name].experts for piece in parts]
        return [self.found.alone.get(name, name)]

    def _tensors(self, module: str) -> list[str]:
        return [f"{module}.{part}" for part in self.parts if f"{module}.{part}" in self.shards]

    def _shapes_of(self, module: str) -> dict[str, tuple[int, ...]]:
        return {name.removeprefix(f"{module}."): self.shards.pieces[name].shape for name in self._tensors(module)}

    def _is_part(self, name: str) -> bool:
        module, _, part = name.rpartition(".")
        return part in self.parts and f"{module}.{self.mark}" in self.shards.pieces

    def _require_types(self, module: str) -> None:
        parts = {name.removeprefix(f"{module}."): self.shards.read(name) for name in self._tensors(module)}
        if fault := dtype_fault(parts):
            raise ModelError(f"{self.shards.folder}: {module}: {fault}")

    def _dtype(self, found: Found) -> str:
        """Of the weights that are not packed, in which the model computes; configs may say another one."""
        plain = (self.shards.read(name) for name in found.alone.values() if name in self.shards)
        dtype = next((value.dtype for value in plain if value.is_floating_point()), torch.float16)
        return str(dtype).removeprefix("torch.")

    def _require_no_lost_bias(self, found: Found) -> None:
        known = set(found.alone.values())
        for name in (f"{_module(linear)}.bias" for linear in self.shapes):
            if name in self.shards and name not in known and bool(self.shards.read(name).any()):
                raise ModelError(f"{self.shards.folder}: '{name}' is not zero, and the model has no such bias")


class GptqFolder(Packed):
    """As auto-gptq and gptqmodel write it."""

    mark, parts = "qweight", gptq_checkpoint.PARTS

    def __init__(self, shards: Shards, values: Mapping[str, Any]) -> None:
        self.config = gptq_config.read_config(values)
        super().__init__(shards)

    def options(self, module: str) -> tuple[int, int | None]:
        return self.config.of(module)

    def to_grid(self, module: str, parts: Mapping[str, Tensor]) -> QuantizedTensor:
        return gptq_checkpoint.from_tensors(parts, *self.options(module), self.config.version)

    def index(self, module: str) -> Tensor | None:
        stored = self.shards.read(f"{module}.g_idx") if f"{module}.g_idx" in self.shards else None
        return gptq_checkpoint.group_index(stored, self.shapes[f"{module}.weight"][1], self.options(module)[1])

    def is_symmetric(self, module: str) -> bool:
        return gptq_checkpoint.is_symmetric(
            self.shards.read(f"{module}.qzeros"),
            self.options(module)[0],
            self.config.version,
            self.shapes[f"{module}.weight"][0],
        )

    def _shape(self, module: str) -> tuple[int, int]:
        shapes = self._shapes_of(module)
        bits, size = self.options(module)
        if fault := gptq_checkpoint.shape_fault(shapes, bits, size):
            raise ModelError(f"{self.shards.folder}: {module}: {fault}")
        return shapes["qweight"][1], shapes["qweight"][0] * WORD // bits


class CompressedTensorsFolder(Packed):
    """As llm-compressor writes it and vLLM loads it."""

    mark, parts = "weight_packed", compressed_tensors.PARTS

    def __init__(self, shards: Shards, values: Mapping[str, Any]) -> None:
        self.config = compressed_tensors_config.read_config(values)
        super().__init__(shards)

    def options(self, module: str) -> tuple[int, int | None]:
        return self.config.of(module)

    def to_grid(self, module: str, parts: Mapping[str, Tensor]) -> QuantizedTensor:
        return compressed_tensors.from_tensors(parts, *self.options(module))

    def index(self, module: str) -> Tensor | None:
        name = f"{module}.weight_g_idx"
        stored = self.shards.read(name) if name in self.shards else None
        return gptq_checkpoint.group_index(stored, self.shapes[f"{module}.weight"][1], self.options(module)[1])

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
    values = _said(folder)
    if values is None:
        return None
    kind = CompressedTensorsFolder if values.get("quant_method") == compressed_tensors_config.METHOD else GptqFolder
    base = values.get("model_file_base_name")
    named = folder / f"{base}.safetensors" if isinstance(base, str) and re.fullmatch(r"[\w.-]+", base) else None
    shards = Shards(folder, [named] if named and named.is_file() else None)
    try:
        return kind(shards, values)
    except ModelError as error:
        where = "" if str(error).startswith(str(folder)) else f"{folder}: "
        raise ModelError(f"{where}{error}") from None


def _said(folder: Path) -> dict[str, Any] | None:
    """What the folder says of its packed weights: in config.json, or in a file of its own (auto-gptq)."""
    config = json.loads((folder / "config.json").read_text())
    if isinstance(values := config.get("quantization_config"), dict):
        return dict(values)
    file = folder / gptq_config.FILE
    if not file.is_file():
        return None
    try:
        values = dict(json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise ModelError(f"{file}: no config can be read here ({error})") from None
    if values.get("quant_method", GPTQ) != GPTQ:
        raise ModelError(f"{file}: quantized by {values['quant_method']}, which is not read; {GPTQ} would be")
    return values


def _module(linear: str) -> str:
    return linear.removesuffix(".weight")
