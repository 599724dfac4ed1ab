"""Rotary positions: tables of cosines and sines made by the model's own code, and who is turned by them.

Su et al., 2021, https://arxiv.org/abs/2104.09864. Whether a model turns halves against each other or neighbours, and
how many channels of a head, is found by trying its function on numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from squeeze.errors import ModelError
from squeeze.writers.decoder.graph import CONTRIB, Builder
from squeeze.writers.decoder.shapes import Shape
from squeeze.writers.decoder.traced import Traced, number

CHANGING = ("dynamic",)  # kinds whose angles of a token change with the length of the text


@dataclass(frozen=True)
class Table:
    """Cosines and sines ``[positions, rotated / 2]`` in the graph.

    Args:
        turned: Channels of a head that are rotated.
        interleaved: True where the model's angles repeat by neighbours, not by halves.
        positions: int64 ``[batch, length]``.
    """

    cos: ir.Value
    sin: ir.Value
    rotated: int
    interleaved: bool
    positions: ir.Value


class Angles(Traced):
    """Cosines or sines of the positions ``[batch, length, rotated]``; a node only where a model computes with them."""

    def __init__(self, builder: Builder, table: Table, half: ir.Value, shape: Shape) -> None:
        self.builder, self.table, self.half = builder, table, half
        self.shape, self.dtype, self.device = shape, torch.float32, torch.device("cpu")

    @property
    def value(self) -> ir.Value:
        builder, half = self.builder, (*self.shape[:-1], self.table.rotated // 2)
        rows = builder.one("Gather", [self.half, self.table.positions], half)
        if not self.table.interleaved:
            return builder.one("Concat", [rows, rows], self.shape, attributes={"axis": -1})
        wide = builder.reshape(rows, (*half, 1))
        pairs = builder.one("Concat", [wide, wide], (*half, 2), attributes={"axis": -1})
        return builder.reshape(pairs, self.shape)


class Rotated(Traced):
    """Queries or keys ``[batch, heads, length, channels]`` rotated by their positions.

    Fused attention takes ``source`` and turns it itself; whoever else reads the value finds a node that does.
    """

    def __init__(self, source: Traced, table: Table, interleaved: bool) -> None:
        super().__init__(source.builder, source.value)
        self.source, self.table, self.interleaved = source, table, interleaved
        self._node: ir.Value | None = None

    @property
    def value(self) -> ir.Value:
        if self._node is None:
            inputs = [self.source.value, self.table.positions, self.table.cos, self.table.sin]
            attributes = {"interleaved": int(self.interleaved)}
            if self.table.rotated != self.shape[-1]:
                heads = number(self.shape[1], "the number of heads")
                attributes |= {"rotary_embedding_dim": self.table.rotated, "num_heads": heads}
            self._node = self.builder.one("RotaryEmbedding", inputs, self.shape, attributes=attributes, domain=CONTRIB)
        return self._node


class Rotary:
    """The rotary modules of a model, and its function that turns queries and keys.

    Args:
        positions: How many the tables hold.
        total: Gives int64 ``[1]``, all tokens so far: what a table that depends on the length is chosen by.
    """

    def __init__(self, builder: Builder, positions: int | None, total: Callable[[], ir.Value]) -> None:
        self.builder, self.positions, self.total = builder, positions, total
        self._tables: dict[Any, tuple[Angles, Angles]] = {}

    def module(self, module: nn.Module, own: Callable[..., Any]) -> Callable[..., tuple[Angles, Angles]]:
        """What to call in place of a rotary module."""
        if self.positions is None:
            raise ModelError("its config says no max_position_embeddings, and rotary tables have an end; state context")
        kinds = getattr(module, "rope_type", "default")
        for kind in kinds.values() if isinstance(kinds, dict) else (kinds,):
            if kind in CHANGING or (kind == "longrope" and isinstance(kinds, dict)):
                raise ModelError(f"rotary positions of type '{kind}' change with the length of the text; no graph form")

        def angles(_: Traced, position_ids: Traced, *args: Any, **kwargs: Any) -> tuple[Angles, Angles]:
            key = (id(module), args, tuple(sorted(kwargs.items())))
            if key not in self._tables:
                self._tables[key] = self._table(
                    module, lambda at: own(torch.zeros(1), at, *args, **kwargs), position_ids
                )
            return self._tables[key]

        return angles

    def function(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """What to call in place of ``apply_rotary_pos_emb(q, k, cos, sin)``."""

        def turn(q: Traced, k: Traced, cos: Any, sin: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(cos, Angles) or not isinstance(sin, Angles):
                return own(q, k, cos, sin, *args, **kwargs)
            styles = [_style(own, cos.table, number(x.shape[-1], "the width of a head")) for x in (q, k)]
            if args or kwargs or None in styles or styles[0] != styles[1]:
                return own(q, k, cos, sin, *args, **kwargs)
            return Rotated(q, cos.table, bool(styles[0])), Rotated(k, cos.table, bool(styles[1]))

        return turn

    def _table(self, module: nn.Module, own: Callable[[Tensor], Any], positions: Traced) -> tuple[Angles, Angles]:
        assert self.positions is not None
        longest = self._both(own, self.positions)
        rotated = longest[0].shape[-1]
        interleaved = _interleaved(longest[0])
        halves = [_half(part, interleaved) for part in longest]
        values = [self.builder.constant(half.numpy(), "float32") for half in halves]
        short = _trained_length(module)
        if short is not None and short < self.positions:
            values = self._chosen(values, [_half(part, interleaved) for part in self._both(own, short)], short)
        table = Table(values[0], values[1], rotated, interleaved, positions.value)
        shape = (*positions.shape, rotated)
        return Angles(self.builder, table, values[0], shape), Angles(self.builder, table, values[1], shape)

    def _both(self, own: Callable[[Tensor], Any], count: int) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            cos, sin = own(torch.arange(count)[None])
        return cos[0].float(), sin[0].float()

    def _chosen(self, long: list[ir.Value], short: list[Tensor], most: int) -> list[ir.Value]:
        """Long tables for texts longer than ``most``, short ones for the others."""
        few = [self.builder.constant(half.numpy(), "float32") for half in short]
        lengths = [self.total(), self.builder.constant([most])]
        is_long = self.builder.one("Greater", lengths, (1,), dtype=ir.DataType.BOOL)
        shapes = [self.builder.shapes[value] for value in long]
        kinds = {"then_branch": long, "else_branch": few}
        branches = {name: _constant_graph(values, name) for name, values in kinds.items()}
        return list(self.builder.branches(self.builder.reshape(is_long, ()), branches, shapes))


def _trained_length(module: nn.Module) -> int | None:
    """The length of text past which all tokens are turned by other angles (longrope); None where there is none."""
    if getattr(module, "rope_type", "default") != "longrope":
        return None
    return int(module.config.rope_parameters["original_max_position_embeddings"])  # type: ignore[union-attr,index]


def _constant_graph(values: list[ir.Value], name: str) -> ir.Graph:
    nodes = [ir.node("Identity", [value]) for value in values]
    for place, node in enumerate(nodes):
        node.name = node.outputs[0].name = f"{name}.{place}"
        node.outputs[0].type, node.outputs[0].shape = values[place].type, values[place].shape
    return ir.Graph([], [node.outputs[0] for node in nodes], nodes=nodes, name=name)


def _interleaved(cos: Tensor) -> bool:
    half = cos.shape[-1] // 2
    if torch.equal(cos[:, :half], cos[:, half:]):
        return False
    if torch.equal(cos[:, ::2], cos[:, 1::2]):
        return True
    raise ModelError("the rotary module's angles repeat neither by halves nor by neighbours")


def _half(angles: Tensor, interleaved: bool) -> Tensor:
    return (angles[:, ::2] if interleaved else angles[:, : angles.shape[-1] // 2]).contiguous()


def _style(own: Callable[..., Any], table: Table, channels: int) -> bool | None:
    """Whether a model's own function turns neighbours (True) or halves (False); None where it does something else."""
    if channels < table.rotated:
        return None
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 3, channels, generator=generator)
    angles = torch.randn(1, 3, table.rotated // 2, generator=generator)
    both = angles.repeat_interleave(2, -1) if table.interleaved else torch.cat([angles, angles], -1)
    actual = own(x, x, both.cos(), both.sin())[0]
    for interleaved in (False, True):
        expected = torch.cat([_rotate(x[..., : table.rotated], angles, interleaved), x[..., table.rotated :]], -1)
        if actual.shape == x.shape and torch.allclose(actual, expected, atol=1e-5):
            return interleaved
    return None


def _rotate(x: Tensor, angles: Tensor, interleaved: bool) -> Tensor:
    """What ``RotaryEmbedding`` computes."""
    one, other = (x[..., ::2], x[..., 1::2]) if interleaved else x.chunk(2, -1)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    parts = [one * cos - other * sin, other * cos + one * sin]
    return torch.stack(parts, -1).flatten(-2) if interleaved else torch.cat(parts, -1)
