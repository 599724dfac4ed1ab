"""The widths of a decoder, its hidden size among them: the channels of the residual stream between its blocks.

A channel leaves embedding, head and every block at once, so that what another unit costs depends on how many channels
there are: parameters are counted tensor by tensor. Heads keep their width, which the config then names as ``head_dim``.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from squeeze.errors import ModelError
from squeeze.models.language.build import accepted, text_values
from squeeze.models.language.skeleton import Skeleton
from squeeze.surgery.hidden import OTHERS, Hidden
from squeeze.surgery.widths import Part, Units, Widths

Dimension = tuple[int, Part | None, int]  # its size, the part that it gets narrower with, units of that part


class DecoderWidths(Widths[Skeleton]):
    """The parts of a decoder that may be made narrower.

    Raises:
        ModelError: the config cannot say a part's width, or the tensors do not follow from it in a known way.
    """

    def __init__(self, skeleton: Skeleton, folder: Path, parts: tuple[Part, ...]) -> None:
        super().__init__(skeleton, folder, tuple(part for part in parts if part != "hidden"))
        self.hidden: Hidden | None = None
        if "hidden" in parts:
            self.units["hidden"] = skeleton.hidden_size
            self.hidden = Hidden.of(skeleton, self.built({"hidden": self._fewer_hidden()}))

    def changes(self, units: Units) -> dict[str, Any]:
        changes = super().changes(units)
        if "hidden" not in units:
            return changes
        before = changes.get("text_config", changes)
        return text_values(self.values, before | {"hidden_size": units["hidden"], "head_dim": self.head_dim})

    def names(self, index: int) -> list[str]:
        return list(dict.fromkeys([*super().names(index), *(self.hidden.blocks[index] if self.hidden else ())]))

    def outside(self) -> list[str]:
        return list(self.hidden.outside) if self.hidden else []

    def parameters(self, units: Units) -> int:
        """Of the whole model: a matrix between two parts costs by the product of both."""
        if self.hidden is None:
            return super().parameters(units)
        return sum(times * _values(dimensions, units) for (dimensions, _), times in self._tensors.items())

    def nbytes(self, units: Units) -> int:
        """The same in bytes."""
        if self.hidden is None:
            return super().nbytes(units)
        return sum(times * size * _values(dimensions, units) for (dimensions, size), times in self._tensors.items())

    def hidden_sizes(self, kv_heads: int | None, align: int) -> list[int]:
        heads: dict[Part, int] = {} if kv_heads is None else {"heads": kv_heads}
        sizes = [*range(align, self.units["hidden"], align), self.units["hidden"]]
        return [n for n in sizes if accepted(self.values | self.changes({**heads, "hidden": n}))]

    def _fewer_hidden(self) -> int:
        """As many channels as a smaller model may have, to compare with."""
        whole = self.units["hidden"]
        for n in (whole // 2, whole - self.heads, whole - 1):  # Llama's heads must divide it
            if 0 < n < whole and accepted(self.values | self.changes({"hidden": n})):
                return n
        kind = self.config.model_type
        raise ModelError(f"a config of model_type '{kind}' takes no smaller hidden_size beside a head_dim; {OTHERS}")

    @cached_property
    def _tensors(self) -> Counter[tuple[tuple[Dimension, ...], int]]:
        """How many tensors there are of each kind, and how many bytes a value of it takes."""
        part_of = self._part_of()
        counts: Counter[tuple[tuple[Dimension, ...], int]] = Counter()
        for name, value in self.skeleton.module.named_parameters():
            parts = [part_of.get((name, dim)) for dim in range(value.dim())]
            dimensions = [(n, p, self.units[p] if p else 1) for n, p in zip(value.shape, parts, strict=True)]
            counts[tuple(dimensions), value.element_size()] += 1
        return counts

    def _part_of(self) -> dict[tuple[str, int], Part]:
        """By full name and dimension of a tensor."""
        assert self.hidden is not None
        parts: dict[tuple[str, int], Part] = dict.fromkeys(self.hidden.outside.items(), "hidden")
        for index, own in enumerate(self.hidden.blocks):
            prefix = self.skeleton.prefix(index)
            parts |= {(prefix + name, dim): "hidden" for name, dim in own.items()}
            for part, cuts in self.cuts(index).items():
                parts |= {(prefix + cut.name, cut.dim): part for cut in cuts}
        return parts


def _values(dimensions: tuple[Dimension, ...], units: Units) -> int:
    """Of a tensor, with so many units."""
    return prod(size * units.get(part, whole) // whole if part else size for size, part, whole in dimensions)
