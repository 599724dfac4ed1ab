"""A model in memory made narrower, block by block, each behind the ones that were cut before.

Linears of encoders have biases, so what stays makes up twice: weights on inputs without their mean, the bias for the
mean. Places that only fill up a batch do not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from squeeze.algorithms.drift import Drift
from squeeze.algorithms.hessian import Hessian
from squeeze.blocks.batches import BatchWalk
from squeeze.blocks.stream import OUTPUT, find_join, watched_place
from squeeze.blocks.visit import Visit
from squeeze.blocks.watch import InputWatch, Weight, shared_inputs
from squeeze.errors import ModelError
from squeeze.models.configured import ConfiguredBlocks, same_shapes
from squeeze.surgery.narrow import Solver, narrow_reader, require_near
from squeeze.surgery.widths import Cut, Part, Units, Widths

CONFIG = Path("config.json")  # for messages: a model in memory has no folder
SAME = 1e-3  # of what a block adds


def resident_widths(blocks: ConfiguredBlocks, parts: tuple[Part, ...]) -> Widths[ConfiguredBlocks]:
    """What of a model's blocks can be cut.

    Raises:
        ModelError: its config cannot say a part's width.
    """
    if "hidden" in parts:
        what = "the hidden size of a model in memory is the width of what it gives, which others rely on"
        raise ModelError(f"{what}; parts: [intermediate] would do")
    if "heads" in parts:
        _require_heads(blocks)
    return Widths(blocks, CONFIG, parts)


def _require_heads(blocks: ConfiguredBlocks) -> None:
    """Refuse a family whose heads become wider when there are fewer, as BERT's do."""
    heads = getattr(blocks.config, "num_attention_heads", None)
    if not isinstance(heads, int):
        return  # Widths says it
    size = getattr(blocks.config, "head_dim", None) or blocks.config.hidden_size // heads
    one = blocks.resized({"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": size})
    if heads > 1 and same_shapes(blocks.layers[0], one.layers[0]):
        what = f"a config of model_type '{blocks.config.model_type}' cannot say fewer heads of the same width"
        would = "that takes a head_dim, and a network that goes by it"
        raise ModelError(
            f"{what} (a head has hidden_size / num_attention_heads): {would}; parts: [intermediate] would do"
        )


@dataclass
class Statistics:
    """Of what goes into a weight, over all places that count.

    Args:
        H: ``X X^T`` without the mean, ``[in, in]``.
        pull: ``R X^T`` without the means, ``[out, in]``, ``R``: what the outputs miss; None: nobody asked.
        mean: Of the inputs, ``[in]``.
        missing: Mean of ``R``, ``[out]``.
    """

    H: Tensor
    pull: Tensor | None
    mean: Tensor
    missing: Tensor
    places: int


class ResidentNarrowing:
    """Cuts the parts of one block after the other.

    Args:
        masks: Per batch bool ``[n, length]``, the places that count; None: all do.
        original: Whether the aim is what the model gave before, not what its weights make of the inputs of now.
    """

    def __init__(
        self,
        widths: Widths[ConfiguredBlocks],
        units: Units,
        walk: BatchWalk,
        masks: list[Tensor | None],
        original: bool,
    ) -> None:
        self.widths, self.units, self.walk, self.masks = widths, units, walk, masks
        self.original = walk.twin() if original else None
        self.facts: dict[str, Any] = {}

    @torch.no_grad()
    def block(self, index: int, solver: Solver) -> dict[str, Tensor]:
        """The block's new tensors by name inside it; the activations are behind it then."""
        block, cuts = self.walk.layers[index], self.widths.cuts(index)
        readers = {Weight(own[0].name): part for part, own in cuts.items()}
        changed = [name for reader in readers for name in (reader.name, _bias(reader)) if _has(block, name)]
        visit = Visit(index, block, was={name: block.get_parameter(name).data.clone() for name in changed})
        new: dict[str, Tensor] = {}
        for (reader,) in shared_inputs(block, list(readers), partial(self.walk.block, index, 0)):
            part = readers[reader]
            kept = self._narrow(visit, reader, cuts[part], self.units[part], solver)
            for cut in cuts[part]:
                new[cut.name] = cut.of(new.get(cut.name, block.get_parameter(cut.name).data), kept)
        new |= {name: block.get_parameter(name).data for name in changed if name not in new}
        if self.original is not None:
            with visit.with_original_weights():
                self.original.through(index)
        self.walk.through(index)
        return new

    def _narrow(self, visit: Visit, reader: Weight, cuts: list[Cut], count: int, solver: Solver) -> Tensor:
        W, was = reader.of(visit.block), reader.of(visit.block).clone()
        statistics = self._statistics(visit, reader)
        size = cuts[0].pieces[0][1]
        kept, facts = narrow_reader(W, statistics.H, statistics.pull, statistics.places, size, count, solver)
        if solver.compensate and _has(visit.block, _bias(reader)):
            left = (was - W).float() @ statistics.mean + statistics.missing
            visit.block.get_parameter(_bias(reader)).data.add_(left)
        self.facts[f"{self.widths.skeleton.prefix(visit.index)}{reader}"] = facts
        return kept

    def _statistics(self, visit: Visit, reader: Weight) -> Statistics:
        block, W = visit.block, reader.of(visit.block)
        place = find_join(block, reader, partial(self.walk.block, visit.index, 0)) if self.original else None
        hessian, drift = Hessian(W.shape[1]), Drift(W, stream=True)
        sums, missing = torch.zeros(W.shape[1]), torch.zeros(W.shape[0])
        for batch in range(len(self.walk.states)):
            X, stream = self._watched(self.walk, visit, reader, place, batch)
            hessian.add(X)
            sums += X.sum(0)
            if self.original is not None:
                with visit.with_original_weights():
                    Xo, before = self._watched(self.original, visit, reader, place, batch)
                R = before - stream if before is not None and stream is not None else (Xo - X) @ W.t()
                drift.add_stream(R, X)
                missing += R.sum(0)
        count, centred = max(hessian.tokens, 1), _has(block, _bias(reader))
        mean, missing = sums / count * centred, missing / count * centred
        H = hessian.matrix() - torch.outer(mean, mean)
        pull = drift.pull() - torch.outer(missing, mean) if self.original is not None else None
        return Statistics(H, pull, mean, missing, hessian.tokens)

    def _watched(
        self, walk: BatchWalk, visit: Visit, reader: Weight, place: str | None, batch: int
    ) -> tuple[Tensor, Tensor | None]:
        """The inputs ``[places, in]`` of a weight, and the sum ``[places, out]`` that its output is part of."""
        inputs: list[Tensor] = []
        sums: list[Tensor] = []
        with InputWatch(visit.block, [reader], lambda weight, tensor: inputs.append(tensor)):
            if place in (None, OUTPUT):
                output = walk.block(visit.index, batch)
                sums = [output] if place == OUTPUT else []
            else:
                with watched_place(visit.block, str(place), sums.append):
                    walk.block(visit.index, batch)
        if len(inputs) != 1:
            raise ModelError(f"{reader} is used {len(inputs)} times in a block; one that is used once can be cut")
        return self._counted(inputs[0], batch), self._counted(sums[0], batch) if sums else None

    def _counted(self, value: Tensor, batch: int) -> Tensor:
        """Rows of the places that count."""
        mask = self.masks[batch]
        if mask is not None and mask.shape == value.shape[:-1]:
            return value[mask]
        return value.reshape(-1, value.shape[-1])


def require_same(
    zeroed: BatchWalk, widths: Widths[ConfiguredBlocks], units: Units, index: int, new: Mapping[str, Tensor]
) -> None:
    """Raise ``ModelError`` unless a narrow block gives what the block with zeros in place of its units gives."""
    source = widths.built(units).source
    made = ConfiguredBlocks(source, source.build()).layers[index]
    made.load_state_dict(dict(zeroed.layers[index].state_dict()) | dict(new), assign=True)
    layers = nn.ModuleList(made.eval() if number == index else one for number, one in enumerate(zeroed.layers))
    narrow = zeroed.on(layers)
    dense, cut = zeroed.block(index, 0), narrow.block(index, 0)
    require_near(cut, dense, zeroed.states[0], SAME, type(made).__name__)


def _bias(reader: Weight) -> str:
    return f"{reader.name.removesuffix('.weight')}.bias"


def _has(block: nn.Module, name: str) -> bool:
    return name in dict(block.named_parameters())


def narrowed(narrowing: ResidentNarrowing, solver: Solver, each: Iterator[int]) -> dict[str, Tensor]:
    """The new tensors of all blocks by their full names.

    Args:
        each: The blocks' numbers, in order.
    """
    new: dict[str, Tensor] = {}
    for index in each:
        start = narrowing.walk.twin() if index == 0 else None
        own = narrowing.block(index, solver)
        if start is not None:
            require_same(start, narrowing.widths, narrowing.units, index, own)
        new |= {narrowing.widths.skeleton.prefix(index) + name: value for name, value in own.items()}
    return new
