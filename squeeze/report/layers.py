"""Layers of the original and of a result side by side, matched by name."""

from __future__ import annotations

from dataclasses import dataclass

from squeeze.report import text
from squeeze.report.shape import ORIGINAL, Layer, Report

COLUMNS = {"shape": "shape", "parameters": "parameters", "nbytes": "bytes", "macs": "MACs"}


@dataclass(frozen=True)
class LayerPair:
    """A layer before and after; None where it is not there."""

    before: Layer | None
    after: Layer | None

    @property
    def layer(self) -> Layer:
        """Whichever is there, the later first."""
        layer = self.after or self.before
        assert layer is not None
        return layer

    @property
    def note(self) -> str:
        """What became of the layer as a whole."""
        return "new" if self.before is None else "removed" if self.after is None else ""

    @property
    def changed(self) -> bool:
        """Whether any of its numbers differs."""
        return bool(self.note) or any("→" in self.change(field) for field in COLUMNS)

    def change(self, field: str) -> str:
        """``16x3x3x3 → 8x3x3x3``, or the one value where it did not change."""
        texts = [_text(layer, field) for layer in (self.before, self.after) if layer is not None]
        return " → ".join(dict.fromkeys(texts))

    def number(self, field: str) -> int:
        """What a table sorts by."""
        return self.layer.parameters if field == "shape" else int(getattr(self.layer, field) or 0)


def layer_tables(report: Report) -> dict[str, list[LayerPair]]:
    """Per result, its layers beside the original's; the original alone where there is no result."""
    original = report.layers.get(ORIGINAL, [])
    ends = {name: layers for name, layers in report.layers.items() if name != ORIGINAL}
    if not ends and original:
        return {ORIGINAL: side_by_side([], original)}
    return {name: side_by_side(original, layers) for name, layers in ends.items()}


def side_by_side(before: list[Layer], after: list[Layer]) -> list[LayerPair]:
    """The original's layers in their order, then those that only the result has.

    Two graphs that have no name in common cannot be matched: the result stands alone.
    """
    later, names = {layer.name: layer for layer in after}, {layer.name for layer in before}
    if not later.keys() & names:
        return [LayerPair(layer, layer) for layer in after]
    pairs = [LayerPair(layer, later.get(layer.name)) for layer in before]
    return pairs + [LayerPair(None, layer) for layer in after if layer.name not in names]


def _text(layer: Layer, field: str) -> str:
    if field == "shape":
        return text.shape(layer.shape)
    return text.size(layer.nbytes) if field == "nbytes" else text.count(getattr(layer, field))
