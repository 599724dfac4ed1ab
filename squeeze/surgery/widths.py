"""How wide the blocks of a model are, and which tensors get narrower with a part of them.

Nothing is known of families: the model is built (without weights) from the same config with a smaller
``intermediate_size``, or with fewer heads, and the tensors whose shapes differ are what is coupled. Heads leave with
the KV head that they share, so that each KV head is still read by as many. Every block has the same widths afterwards,
since a config names one number for all of them. The stream between blocks: ``squeeze.surgery.hidden_widths``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from squeeze.algorithms.osscar import channels
from squeeze.errors import ModelError
from squeeze.models import counts
from squeeze.models.language.build import accepted, text_values

Part = Literal["intermediate", "heads", "hidden"]
Units = Mapping[Part, int]  # of each part that may be cut: intermediate channels, KV heads, channels between blocks
Cost = Callable[[Units], float]  # of the whole model with so many units, by whatever a goal counts

NAMES: dict[Part, str] = {"intermediate": "intermediate_size", "heads": "num_attention_heads"}  # in a config


class Structure(Protocol):
    """A model's blocks and the config that they follow from, without weights or with them.

    Args:
        layers_name: Where the blocks are in ``module``.
        values: Of its config.
    """

    module: nn.Module
    layers_name: str
    layers: nn.ModuleList
    values: Mapping[str, Any]
    config: Any

    def prefix(self, index: int) -> str:
        """``model.layers.3.``."""
        ...

    def built(self, folder: Path, values: Mapping[str, Any]) -> Self:
        """The model of another config, without weights; ``folder`` is for messages."""
        ...


N = TypeVar("N", bound=Structure)


@dataclass(frozen=True)
class Cut:
    """A dimension of a block's tensor that gets narrower.

    Args:
        name: Inside the block.
        pieces: Where the units lie in that dimension: ``(first, size)`` of each stack of them (q, k and v in one).
    """

    name: str
    dim: int
    pieces: tuple[tuple[int, int], ...]

    @property
    def reads(self) -> bool:
        """Whether the units are input channels of a matrix: its other columns can make up for those that leave."""
        return self.dim == 1 and self.name.endswith("weight")

    def of(self, value: Tensor, units: Tensor) -> Tensor:
        """The tensor with some units alone."""
        places = torch.cat([first + channels(units, size) for first, size in self.pieces])
        return value.index_select(self.dim, places)


class Widths(Generic[N]):
    """The parts of a model's blocks that may be made narrower.

    Raises:
        ModelError: the config does not name a part's width, or the tensors do not follow from it in a known way.
    """

    def __init__(self, skeleton: N, folder: Path, parts: tuple[Part, ...]) -> None:
        self.skeleton, self.folder = skeleton, folder
        self.values = dict(skeleton.values)
        self.config = skeleton.config.get_text_config()
        self.units: dict[Part, int] = {part: self._units(part) for part in parts}
        self.choices = self._choices() if "heads" in parts else []
        self.fewer: dict[Part, int] = {part: self._fewer(part) for part in parts}
        self.smaller = {part: self.built({part: n}) for part, n in self.fewer.items() if n < self.units[part]}
        self._cuts = [self._of_block(index) for index in range(len(skeleton.layers))]
        self._require_inside()

    @property
    def heads(self) -> int:
        return int(self.config.num_attention_heads)

    @property
    def kv_heads(self) -> int:
        return int(getattr(self.config, "num_key_value_heads", None) or self.heads)

    @property
    def head_dim(self) -> int:
        return int(getattr(self.config, "head_dim", None) or self.config.hidden_size // self.heads)

    def changes(self, units: Units) -> dict[str, Any]:
        """What the config says otherwise of a model with so many units."""
        new: dict[str, Any] = {}
        if "intermediate" in units:
            new["intermediate_size"] = units["intermediate"]
        if "heads" in units:
            new |= {"num_attention_heads": units["heads"] * (self.heads // self.kv_heads)}
            new |= {"num_key_value_heads": units["heads"], "head_dim": self.head_dim}
        return text_values(self.values, new)

    def built(self, units: Units) -> N:
        """The model with so many units, without weights."""
        return self.skeleton.built(self.folder, self.values | self.changes(units))

    def cuts(self, index: int) -> dict[Part, list[Cut]]:
        """What gets narrower in a block with each part, the matrix that reads the units first."""
        return self._cuts[index]

    def names(self, index: int) -> list[str]:
        """Of all tensors of a block that get narrower."""
        return [cut.name for cuts in self._cuts[index].values() for cut in cuts]

    def outside(self) -> list[str]:
        """Of all tensors outside the blocks that get narrower."""
        return []

    def hidden_sizes(self, kv_heads: int | None, align: int) -> list[int]:
        """Multiples of ``align`` that the config takes as hidden size beside so many KV heads, and the whole."""
        return []

    def parameters(self, units: Units) -> int:
        """Of the whole model with so many units."""
        return self._with(units, counts.parameters)

    def nbytes(self, units: Units) -> int:
        """Of the whole model's weights with so many units, as stored dense."""
        return self._with(units, counts.nbytes)

    def _with(self, units: Units, count: counts.Counted) -> int:
        """What is counted of a model, where each unit of a part adds the same."""
        before = total = count(self.skeleton)
        for part, smaller in self.smaller.items():
            gone = self.units[part] - self.fewer[part]
            total -= (self.units[part] - units.get(part, self.units[part])) * ((before - count(smaller)) // gone)
        return total

    def _units(self, part: Part) -> int:
        found = getattr(self.config, NAMES[part], None)
        if not isinstance(found, int):
            what = "one for each block" if isinstance(found, list) else "none"
            kind = self.config.model_type
            raise ModelError(f"config.json of model_type '{kind}' names {what} as {NAMES[part]}; one number would do")
        return found if part == "intermediate" else self.kv_heads

    def _choices(self) -> list[int]:
        """How many KV heads a config of the family may name, ascending; Llama's heads must divide the hidden size."""
        fewer = [n for n in range(1, self.kv_heads) if accepted(self.values | self.changes({"heads": n}))]
        return [*fewer, self.kv_heads]

    def _fewer(self, part: Part) -> int:
        """As many as a smaller model may have, to compare with; all of them where there is none."""
        return self.units[part] // 2 if part == "intermediate" else self.choices[-2:][0]

    def _of_block(self, index: int) -> dict[Part, list[Cut]]:
        found: dict[Part, list[Cut]] = {}
        for part, smaller in self.smaller.items():
            cuts = _differing(self.skeleton.layers[index], smaller.layers[index], self._layouts(part))
            reading = [cut for cut in cuts if cut.reads]
            where = self.skeleton.prefix(index).removesuffix(".")
            if not cuts:
                kind = self.config.model_type
                raise ModelError(f"model_type '{kind}': no weight of {where} gets narrower with {NAMES[part]}")
            if len(reading) != 1 or self.skeleton.layers[index].get_parameter(reading[0].name).dim() != 2:
                what = f"{where}: {part} are in {', '.join(cut.name for cut in cuts)}"
                raise ModelError(f"{what}; one matrix that reads them is needed (mixtures of experts have more)")
            found[part] = sorted(cuts, key=lambda cut: not cut.reads)
        return found

    def _layouts(self, part: Part) -> dict[int, tuple[tuple[int, int], ...]]:
        """By the size of a dimension, where the units lie in it."""
        if part == "intermediate":
            size = self.units[part]
            return {size: ((0, 1),), 2 * size: ((0, 1), (size, 1))}
        heads, kv, dim = self.heads, self.kv_heads, self.head_dim
        shared = heads // kv
        fused = ((0, shared * dim), (heads * dim, dim), ((heads + kv) * dim, dim))
        known = {kv: ((0, 1),), heads: ((0, shared),), kv * dim: ((0, dim),), heads * dim: ((0, shared * dim),)}
        return known | {(heads + 2 * kv) * dim: fused}

    def _require_inside(self) -> None:
        for smaller in self.smaller.values():
            shapes = {name: value.shape for name, value in self.skeleton.module.named_parameters()}
            inside = f"{self.skeleton.layers_name}."
            changed = [n for n, v in smaller.module.named_parameters() if shapes.get(n) != v.shape]
            if outside := [name for name in changed if not name.startswith(inside)]:
                raise ModelError(f"{outside[0]} outside the blocks would change too; that is not known to be right")


def most_channels(widths: Widths[Any], others: Units, cost: Cost, most: float, align: int) -> int:
    """The most intermediate channels that cost no more, beside so many other units; 0: not even the fewest."""
    units = widths.units["intermediate"]
    channels = [*range(align, units, align), units]
    fit = bisect_right(channels, most, key=lambda count: cost({"intermediate": count, **others}))
    return channels[fit - 1] if fit else 0


def _differing(block: nn.Module, smaller: nn.Module, layouts: Mapping[int, tuple[tuple[int, int], ...]]) -> list[Cut]:
    """The dimensions in which two blocks differ.

    Raises:
        ModelError: one whose size does not say how the units lie in it.
    """
    new = dict(smaller.named_parameters())
    cuts = []
    for name, value in block.named_parameters():
        for dim, (was, now) in enumerate(zip(value.shape, new[name].shape, strict=True)):
            if was != now and was not in layouts:
                raise ModelError(f"{name} is {list(value.shape)}: how units lie in {was} channels is not known")
            if was != now:
                cuts.append(Cut(name, dim, layouts[was]))
    return cuts
