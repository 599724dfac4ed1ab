"""A language model written anew, block by block: what is on disk is finished, whatever happens next.

Each block is one shard, ``block-00003.safetensors``, which carries the description of its quantized weights and what
its facts about them; the rest is ``outside.safetensors``. A shard appears whole or not at all, and one that
has changed on disk since counts as not finished.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.models.grid_file import GRID, GridEntry, read_grid, stored_value, to_tensors
from squeeze.models.language.dense import copy_side_files
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.skeleton import Skeleton, filled
from squeeze.models.links import link_or_copy
from squeeze.models.shards import METADATA, Shards, metadata
from squeeze.sums import is_whole, put_summed

FACTS = "facts"
OUTSIDE = "outside"
New = Mapping[str, Tensor | QuantizedTensor]


class Rewriter:
    """Writes a changed copy of ``model`` into ``folder``, which may hold blocks that an earlier try finished.

    Args:
        config: What the new model's ``config.json`` says otherwise.
        skeleton: Of the new model, where its blocks have other shapes.
    """

    def __init__(
        self,
        model: LanguageModel,
        folder: Path,
        config: Mapping[str, Any] | None = None,
        skeleton: Skeleton | None = None,
    ) -> None:
        self.model, self.folder, self.skeleton = model, folder, skeleton or model.skeleton
        folder.mkdir(parents=True, exist_ok=True)
        copy_side_files(model.folder, folder)
        if config:
            file = folder / "config.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | dict(config), indent=2, sort_keys=True) + "\n")

    def done(self, index: int) -> dict[str, Any] | None:
        """Facts about a block that is finished; None where it is not."""
        return self._facts(_block(index))

    def put_block(self, index: int, new: New, facts: dict[str, Any]) -> None:
        """Write a block: ``new`` by name inside the block, everything else as it was."""
        prefix = self.model.skeleton.prefix(index)
        names = [prefix + name for name in self.skeleton.block_names(index)]
        self._put(_block(index), names, {prefix + name: value for name, value in new.items()}, facts)

    def put_outside(self, new: New, facts: dict[str, Any]) -> None:
        """Write what is before and behind the blocks; ``new`` may hold tensors that were tied or absent."""
        names = list(dict.fromkeys([*self.model.skeleton.outside, *new]))
        self._put(OUTSIDE, names, new, facts)

    def finish(self) -> LanguageModel:
        """The new model; what nobody changed outside the blocks is taken over."""
        if self._facts(OUTSIDE) is None:
            self._put_rest()
        return LanguageModel(self.folder)

    @contextmanager
    def block(self, index: int) -> Iterator[nn.Module]:
        """A finished block with its weights as stored, for as long as the ``with`` lasts."""
        shards = Shards(self.folder, [self.folder / f"{_block(index)}.safetensors"])
        grid, prefix, module = read_grid(shards), self.skeleton.prefix(index), self.skeleton.layers[index]
        names = self.skeleton.block_names(index)
        with filled(module, names, lambda name: stored_value(shards, grid, prefix + name)):
            yield module

    def _put_rest(self) -> None:
        """What is outside the blocks, as it was: files that hold nothing else are linked, which takes no room."""
        rest = list(self.model.skeleton.outside)
        for number, (file, names) in enumerate(self._linkable().items()):
            link = self.folder / f"{OUTSIDE}-{number:05d}.safetensors"
            link.unlink(missing_ok=True)
            link_or_copy(file, link)
            rest = [name for name in rest if name not in names]
        self._put(OUTSIDE, rest, {}, {})

    def _linkable(self) -> dict[Path, set[str]]:
        """Files of the model that hold tensors outside the blocks and nothing else, and the names of those."""
        if self.model.packed or self.model.skeleton.factors:
            return {}
        outside = set(self.model.skeleton.outside) - set(self.model.grid)
        held: dict[Path, set[str]] = {}
        for name, piece in self.model.shards.pieces.items():
            held.setdefault(piece.file, set()).add(name)
        return {file: names for file, names in held.items() if names <= outside}

    def _facts(self, shard: str) -> dict[str, Any] | None:
        path = self.folder / f"{shard}.safetensors"
        if not is_whole(path):
            return None
        facts: dict[str, Any] = metadata(path)[FACTS]
        return facts

    def _put(self, shard: str, names: list[str], new: New, facts: dict[str, Any]) -> None:
        tensors: dict[str, Tensor] = {}
        grid: dict[str, Any] = {}
        for name in names:
            value = new.get(name)
            if isinstance(value, QuantizedTensor):
                tensors |= to_tensors(name, value)
                grid[name] = self._entry(name, value).to_json()
            else:
                tensors |= self._as_it_was(name, grid) if value is None else {name: value.contiguous()}
        beside = json.dumps({GRID: grid, FACTS: facts}, sort_keys=True)
        _write(self.folder / f"{shard}.safetensors", tensors, {METADATA: beside})

    def _as_it_was(self, name: str, grid: dict[str, Any]) -> dict[str, Tensor]:
        if name not in self.model.grid:
            return {name: self.model.tensor(name)}
        grid[name] = self.model.grid[name].to_json()
        return to_tensors(name, self.model.quantized(name))

    def _entry(self, name: str, value: QuantizedTensor) -> GridEntry:
        known = self.model.skeleton.module.get_parameter(name)
        dtype = str(known.dtype).removeprefix("torch.")
        return GridEntry.of(value, tuple(known.shape), dtype)


def _block(index: int) -> str:
    return f"block-{index:05d}"


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    temporary = path.with_suffix(".part")
    save_file({name: tensors[name] for name in sorted(tensors)}, temporary, metadata)
    put_summed(temporary, path)
