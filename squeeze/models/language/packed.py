"""A folder that others quantized, read into the grid without requantizing: GPTQ checkpoints and compressed-tensors.

A packed linear lies on disk as several tensors; here it is one piece of the weight's own name and shape, so that
whoever matches stored names to a module's sees a plain folder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import ModelError
from squeeze.formats.compressed_tensors_config import PackedConfig
from squeeze.formats.gptq_checkpoint import group_index
from squeeze.formats.gptq_config import GptqConfig
from squeeze.formats.words import dtype_fault
from squeeze.models.grid_file import GridEntry
from squeeze.models.language.names import StoredNames
from squeeze.models.pieces import Piece
from squeeze.models.shards import Shards


class Packed(ABC):
    """The packed linears of a folder.

    Raises:
        ModelError: tensors that do not belong together, by name.
    """

    mark: ClassVar[str]  # the part that every packed linear has
    order: ClassVar[str]  # the part that says each input channel's group, where groups are not consecutive channels
    parts: ClassVar[tuple[str, ...]]
    config: GptqConfig | PackedConfig

    def __init__(self, shards: Shards) -> None:
        self.shards = shards
        ending = f".{self.mark}"
        modules = [name.removesuffix(ending) for name in shards.pieces if name.endswith(ending)]
        if not modules:
            raise ModelError(f"{shards.folder}: its config says that it is packed, and no tensor ends in {ending}")
        for module in modules:
            self._require_types(module)
        self.shapes = {f"{module}.weight": self._shape(module) for module in modules}
        self.stored_names = StoredNames()

    @property
    def pieces(self) -> dict[str, Piece]:
        """All tensors of the folder, a packed linear as one under the name of its weight."""
        plain = {name: piece for name, piece in self.shards.pieces.items() if not self._is_part(name)}
        first = {name: self.shards.pieces[f"{_module(name)}.{self.mark}"].file for name in self.shapes}
        return plain | {name: Piece(first[name], name, shape) for name, shape in self.shapes.items()}

    def entries(self, stored_names: StoredNames, module: nn.Module) -> dict[str, GridEntry]:
        """By name in the module, what is stored of each packed weight.

        Raises:
            ModelError: experts of one weight that are packed differently, or a bias that the module has no place for.
        """
        self.stored_names = stored_names
        self._require_no_lost_bias(stored_names)
        dtype = self._dtype(stored_names)
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
            shape = stored_names.stacked[name].shape if name in stored_names.stacked else self.shapes[stored[0]]
            entries[name] = GridEntry(tuple(shape), bits, size, symmetric, dtype)
        return entries

    def grid(self, name: str) -> QuantizedTensor:
        """The grid of a packed weight by its name in the module; experts lie one under the other."""
        return QuantizedTensor.stack([self._read(linear) for linear in self._stored(name)])

    def group_index(self, name: str) -> Tensor | None:
        """The group of each input channel; None where groups are consecutive channels."""
        return self.index(_module(self._stored(name)[0]))

    def nbytes(self, name: str) -> int:
        """Bytes of a packed weight on disk."""
        parts = [part for linear in self._stored(name) for part in self._tensors(_module(linear))]
        return sum(self.shards.read(part).nbytes for part in parts)

    def options(self, module: str) -> tuple[int, int | None]:
        """Bits and group size of a module, as the config says."""
        return self.config.of(module)

    def index(self, module: str) -> Tensor | None:
        """The group of each input channel, where they are not consecutive."""
        name = f"{module}.{self.order}"
        stored = self.shards.read(name) if name in self.shards else None
        return group_index(stored, self.shapes[f"{module}.weight"][1], self.options(module)[1])

    @abstractmethod
    def to_grid(self, module: str, parts: Mapping[str, Tensor]) -> QuantizedTensor:
        """The grid of a linear's tensors."""

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
        if name in self.stored_names.stacked:
            return [piece.name for parts in self.stored_names.stacked[name].experts for piece in parts]
        return [self.stored_names.alone.get(name, name)]

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

    def _dtype(self, stored_names: StoredNames) -> str:
        """Of the weights that are not packed, in which the model computes; configs may say another one."""
        plain = (self.shards.read(name) for name in stored_names.alone.values() if name in self.shards)
        dtype = next((value.dtype for value in plain if value.is_floating_point()), torch.float16)
        return str(dtype).removeprefix("torch.")

    def _require_no_lost_bias(self, stored_names: StoredNames) -> None:
        known = set(stored_names.alone.values())
        for name in (f"{_module(linear)}.bias" for linear in self.shapes):
            if name in self.shards and name not in known and bool(self.shards.read(name).any()):
                raise ModelError(f"{self.shards.folder}: '{name}' is not zero, and the model has no such bias")


def _module(linear: str) -> str:
    return linear.removesuffix(".weight")
