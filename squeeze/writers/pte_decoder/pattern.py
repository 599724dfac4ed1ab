"""Which blocks of a decoder are exported, so that all others are repetitions of them.

Kinds of blocks come round after ``period`` blocks: a Llama's after one, a Gemma 2's after two, since windows alternate.
The export takes three rounds from the front and the last one with what is left over; the third is repeated. Its weights
are stand-ins: numbers at random, no two tensors alike, so that each is found again in what the exporter makes of it.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from squeeze.formats.grid_kind import GridKind
from squeeze.models.language.language_model import LanguageModel
from squeeze.surgery.depth import fewer_blocks

ROUNDS = 4  # that are exported
REPEATED = 2  # the round that others are copies of, counted from 0
BLOCK_OWN = frozenset({"layer_idx", "layer_id"})  # attributes that say which block it is, not of what kind
CACHE = re.compile(r"(?P<before>keys_|values_)(?P<index>\d+)(?P<behind>)")


@dataclass(frozen=True)
class Pattern:
    """How the blocks of the program follow from those exported.

    Args:
        layers: Where a model's blocks are (``model.layers``).
        count: Blocks of the model.
        period: Blocks of one round.
    """

    layers: str
    count: int
    period: int

    @property
    def kept(self) -> list[int]:
        """The blocks that are exported."""
        front = (ROUNDS - 1) * self.period
        return [*range(front), *range(self.count - self.period - self.count % self.period, self.count)]

    @property
    def copies(self) -> range:
        """The rounds that are copies, counted as in the whole model."""
        return range(REPEATED + 1, self.count // self.period - 1)

    def block_of(self, name: str) -> int | None:
        """The block of a weight or cache; None: it belongs to none."""
        found = self._found(name)
        return None if found is None else int(found["index"])

    def round_of(self, name: str) -> int | None:
        """Which exported round a weight or cache of the exported program belongs to; None: to no block."""
        block = self.block_of(name)
        return None if block is None else min(block // self.period, ROUNDS - 1)

    def moved(self, name: str, rounds: int) -> str:
        """The same weight or cache some rounds further on; others keep their names."""
        found = self._found(name)
        if found is None:
            return name
        start, end = found.span("index")
        return f"{name[:start]}{int(found['index']) + rounds * self.period}{name[end:]}"

    def whole(self, name: str) -> str:
        """The name in the whole model of a weight or cache of the exported program."""
        return self.moved(name, len(self.copies)) if self.round_of(name) == ROUNDS - 1 else name

    def _found(self, name: str) -> re.Match[str] | None:
        weight = rf"(?P<before>(module\.)?{re.escape(self.layers)}\.)(?P<index>\d+)(?P<behind>\..*)?"
        return CACHE.fullmatch(name) or re.fullmatch(weight, name)


def pattern_of(model: LanguageModel, grid: Mapping[str, GridKind] | None = None) -> Pattern | None:
    """How a model's blocks repeat; None: they do not, or too seldom to be worth it.

    Args:
        grid: What its weights will lie on; None: what they lie on.
    """
    grids = model.grid_kinds() if grid is None else grid
    kinds = [_kind(model, index, grids) for index in range(model.blocks)]
    period = next(size for size in range(1, len(kinds) + 1) if kinds[size:] == kinds[: len(kinds) - size])
    found = Pattern(model.skeleton.layers_name, model.blocks, period)
    return found if found.copies else None


def _kind(model: LanguageModel, index: int, grids: Mapping[str, GridKind]) -> Hashable:
    """Equal for two blocks that compute the same with weights of the same shapes and grids."""
    skeleton = model.skeleton
    prefix, block = skeleton.prefix(index), skeleton.layers[index]
    weights = [(name, tuple(value.shape), grids.get(prefix + name)) for name, value in block.named_parameters()]
    modules = [(name, type(module), _settings(module)) for name, module in block.named_modules()]
    listed = fewer_blocks(skeleton.config.get_text_config(), model.blocks, [index])
    return tuple(weights), tuple(modules), repr(sorted(listed.items()))


def _settings(module: nn.Module) -> Hashable:
    """Numbers, names and switches that a module was made with."""
    plain: dict[str, Any] = {name: value for name, value in vars(module).items() if name not in BLOCK_OWN}
    return tuple(sorted((name, repr(value)) for name, value in plain.items() if _is_plain(value)))


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
