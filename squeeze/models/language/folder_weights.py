"""Weights that stay in a folder on disk, read by their names in the module: plain, stacked, on a grid or packed.

Which module they fill, and when, is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import ModelError
from squeeze.formats.grid_kind import GridKind
from squeeze.models.grid_file import PARTS, GridEntry, dense, read_grid, stored_grid, stored_value
from squeeze.models.language.adapter import AdapterFolder
from squeeze.models.language.minicpm import EMBEDDING, HEAD, scaled
from squeeze.models.language.names import find
from squeeze.models.language.packed_folder import packed_folder
from squeeze.models.language.skeleton import Skeleton
from squeeze.models.shards import Shards


class FolderWeights:
    """The weights of one folder, for the structure that its config gives.

    Raises:
        ModelError: a shard missing or cut short, a tensor missing or of the wrong shape.
    """

    skeleton: Skeleton

    def open_folder(self, folder: Path) -> None:
        """Read what the folder holds, by name; no weight is read."""
        self.folder, self.adapter = folder, AdapterFolder.beside(folder)
        self.packed = packed_folder(folder)
        self.shards = self.packed.shards if self.packed else Shards(folder)
        pieces = self.packed.pieces if self.packed else self.shards.pieces
        self.stored_names = find(self.skeleton.module, self.skeleton.names(), pieces)
        self.grid: Mapping[str, GridEntry] = self._read_grid()
        if HEAD in self.skeleton.factors and EMBEDDING in self.stored_names.alone:
            self.stored_names.alone.setdefault(HEAD, self.stored_names.alone[EMBEDDING])  # tied on disk, scaled apart
        self._require_all()
        if self.adapter is not None:
            self.adapter.require_fit(
                {name: tuple(value.shape) for name, value in self.skeleton.module.named_parameters()}
            )

    def tensor(self, name: str, wide: bool = False) -> Tensor:
        """One weight by its name in the module, with what an adapter adds to it.

        A quantized one is dequantized, in float32 where ``wide``.
        """
        value = self._stored(name, wide)
        return value if self.adapter is None else self.adapter.added(name, value)

    def _stored(self, name: str, wide: bool) -> Tensor:
        if self.packed and name in self.grid:
            return dense(self.grid[name], self.quantized(name), wide)
        if name in self.stored_names.stacked:
            return self.stored_names.stacked[name].read()
        value = stored_value(self.shards, self.grid, self.stored_names.alone.get(name, name), wide)
        factor = self.skeleton.factors.get(name)
        return value if factor is None else scaled(value, factor)

    def parts(self, name: str) -> Iterator[Tensor]:
        """A weight as :meth:`tensor` gives it, some rows at a time where it lies on disk as it is."""
        stored = self.stored_names.alone.get(name, name)
        changed = self.adapter is not None or name in self.skeleton.factors or name in self.grid
        if changed or self.packed or name in self.stored_names.stacked:
            yield self.tensor(name)
        else:
            yield from self.shards.parts(stored)

    def quantized(self, name: str) -> QuantizedTensor:
        """The grid of a quantized weight; experts of a 3-D weight lie one under the other."""
        return self.packed.grid(name) if self.packed else stored_grid(self.shards, self.grid, name)

    def grid_kinds(self) -> dict[str, GridKind]:
        """What kind of grid each quantized weight lies on."""
        return {name: entry.kind(self.group_index(name) is not None) for name, entry in self.grid.items()}

    def group_index(self, name: str) -> Tensor | None:
        """int32 ``[in]``, the group of each input channel of a quantized weight; None where they are consecutive."""
        if self.packed:
            return self.packed.group_index(name)
        return self.shards.read(f"{name}.g_idx") if f"{name}.g_idx" in self.shards else None

    def stored_bytes(self, name: str, value: Tensor) -> int:
        """Of a weight with its scales; ``value`` has its shape and type where it lies on no grid."""
        if name not in self.grid:
            return value.nbytes
        if self.packed:
            return self.packed.nbytes(name)
        stored = [f"{name}.{part}" for part in PARTS]
        return sum(self.shards.read(part).nbytes for part in stored if part in self.shards)

    def _read_grid(self) -> dict[str, GridEntry]:
        if self.packed is None:
            return read_grid(self.shards)
        if self.skeleton.factors:
            raise ModelError(
                f"{self.folder}: a packed MiniCPM cannot be folded into a Llama; the model before would do"
            )
        return self.packed.entries(self.stored_names, self.skeleton.module)

    def _require_all(self) -> None:
        expected = self.skeleton.module.state_dict()
        for name in self.skeleton.names():
            shape = self._shape(name)
            if shape is None:
                raise ModelError(f"{self.folder}: the shards hold no '{name}', which the model needs")
            if shape != tuple(expected[name].shape):
                what = f"{list(shape)} on disk, {list(expected[name].shape)} by config.json"
                raise ModelError(f"{self.folder}: '{name}' has the wrong shape: {what}")

    def _shape(self, name: str) -> tuple[int, ...] | None:
        """Of a tensor on disk; None where there is none."""
        if name in self.grid:
            return self.grid[name].shape
        if name in self.stored_names.stacked:
            return self.stored_names.stacked[name].shape
        return self.shards.pieces[self.stored_names.alone[name]].shape if name in self.stored_names.alone else None
