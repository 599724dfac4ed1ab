"""Find what writes the input of some weights: dividing it and multiplying the weights changes nothing.

Nothing is known of families. A norm is a source if its output is the very input; a linear, or its last rows, if the
sizes allow it. Either way the block itself decides: scaled by powers of two, which floats hold exactly, on both sides,
it must give what it gave before. So an input that something else reads as well (a router) has no source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from squeeze.algorithms.smooth import scale_columns, scale_rows
from squeeze.blocks.hooks import watched_modules
from squeeze.blocks.walk import Walk
from squeeze.blocks.watch import InputWatch, Weight
from squeeze.models.language.skeleton import fill

SAME = 1e-3  # relative to what the block adds: above the noise of float32 and bfloat16, below any real change


@dataclass(frozen=True)
class Source:
    """Part of a block whose output is the input of a group of weights.

    Args:
        module: Its name inside the block.
        rows: How many of a linear's rows, counted from the end; None: all that a norm has.
        offset: A norm multiplies with ``offset + weight``.
        repeat: How many attention heads read each KV head.
        head: Channels per head, where ``repeat`` is more than one.
    """

    module: str
    rows: int | None = None
    offset: float = 0.0
    repeat: int = 1
    head: int = 0

    def tied(self, values: Tensor) -> Tensor:
        """``[in]`` values, the mean of those that come from one row of the source."""
        if self.repeat == 1:
            return values
        by_head = values.reshape(-1, self.repeat, self.head)
        return by_head.mean(dim=1, keepdim=True).expand_as(by_head).flatten()

    def divide(self, block: nn.Module, scale: Tensor) -> list[str]:
        """Divide the source's output by ``scale [in]``, tied; gives the names of the parameters that changed."""
        if self.repeat > 1:
            scale = scale.reshape(-1, self.repeat, self.head)[:, 0].flatten()
        changed = []
        for leaf, value in list(block.get_submodule(self.module).named_parameters(recurse=False)):
            offset = self.offset if leaf == "weight" else 0.0
            first = 0 if self.rows is None else len(value) - self.rows
            new = value.data.clone()
            new[first:] = scale_rows(new[first:] + offset, scale) - offset
            changed.append(f"{self.module}.{leaf}")
            fill(block, changed[-1], new)
        return changed


def head_counts(config: Any) -> tuple[int, int]:
    """Attention heads and KV heads, as the config has them; the same where it does not say."""
    heads = int(getattr(config, "num_attention_heads", 1))
    return heads, int(getattr(config, "num_key_value_heads", None) or heads)


def all_matrices(block: nn.Module) -> list[Weight]:
    """Every matrix of a block, routers and experts included: whatever reads an input must be known."""
    weights: list[Weight] = []
    for name, value in block.named_parameters():
        if value.dim() == 2:
            weights.append(Weight(name))
        if value.dim() == 3:
            weights += [Weight(name, expert) for expert in range(len(value))]
    return weights


def added_by(walk: Walk, index: int) -> Callable[[], Tensor]:
    """What a block adds to the first of the activations that are before it."""
    hidden = walk.hidden[next(walk.chunks())]
    return lambda: walk.block(index, hidden).float() - hidden.float()


def fold(block: nn.Module, source: Source, group: list[Weight], scale: Tensor) -> list[str]:
    """Divide the source, multiply the weights of the group: the block computes the same."""
    changed = source.divide(block, scale)
    for weight in group:
        fill(block, weight.name, scale_columns(weight.of(block), scale))
    return [*changed, *(weight.name for weight in group)]


def find_sources(
    block: nn.Module, groups: list[list[Weight]], heads: tuple[int, int], run: Callable[[], Tensor]
) -> dict[Weight, Source]:
    """The source of each group that has one, by the group's first weight.

    Args:
        groups: In the order in which they run, each with all weights that share an input.
        heads: Attention heads and KV heads.
        run: What the block adds to some activations.
    """
    norms, reference = norms_behind(block, groups, run)
    sources: dict[Weight, Source] = {}
    for place, group in enumerate(groups):
        if group[0].expert is not None:
            continue
        before = [weight for earlier in groups[:place] for weight in earlier if weight.expert is None]
        candidates = [*norms.get(group[0], []), *_linears(block, group[0], before, heads)]
        source = next((one for one in candidates if _holds(block, one, group, run, reference)), None)
        if source is not None:
            sources[group[0]] = source
    return sources


def norms_behind(
    block: nn.Module, groups: list[list[Weight]], run: Callable[[], Tensor]
) -> tuple[dict[Weight, list[Source]], Tensor]:
    """The norm whose output is the very input of a group, and what the block adds."""
    outputs: list[tuple[str, Tensor]] = []
    inputs: dict[Weight, Tensor] = {}

    def note(name: str, _: nn.Module, __: object, output: Tensor) -> None:
        outputs.append((name, output))

    firsts = [group[0] for group in groups]
    with watched_modules(norms(block), note), InputWatch(block, firsts, inputs.__setitem__):
        reference = run()
    sources: dict[Weight, list[Source]] = {}
    for weight, value in inputs.items():
        for name, output in outputs:
            offset = norm_offset(block.get_submodule(name)) if output is value else None
            if offset is not None:
                sources[weight] = [Source(name, offset=offset)]
    return sources, reference


def norms(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Modules whose weight is one number per channel."""
    return [
        (name, child)
        for name, child in module.named_modules()
        if isinstance(weight := child._parameters.get("weight"), Tensor) and weight.dim() == 1
    ]


def norm_offset(norm: nn.Module) -> float | None:
    """What a norm adds to its weight before it multiplies: 0, or 1 in Gemma; None where it does something else."""
    weight, bias = norm.get_parameter("weight").data, norm._parameters.get("bias")
    x = torch.linspace(-1, 2, len(weight), dtype=weight.dtype).reshape(1, 1, -1)
    try:
        for offset in (0.0, 1.0):
            fill(norm, "weight", torch.full_like(weight, -offset, device="cpu"))
            with torch.no_grad():
                output = norm(x) if bias is None else norm(x) - bias
            if not output.any():
                return offset
    finally:
        fill(norm, "weight", weight)
    return None


def _linears(block: nn.Module, reader: Weight, before: list[Weight], heads: tuple[int, int]) -> Iterator[Source]:
    """Earlier linears whose rows, or last rows, could be the reader's inputs: the latest first."""
    inputs = reader.of(block).shape[1]
    attention, kv = heads
    for weight in reversed(before):
        rows, module = len(weight.of(block)), weight.name.removesuffix(".weight")
        if rows >= inputs:
            yield Source(module, rows=inputs)  # up, or the second half of a fused gate_up
        if attention > kv and inputs % attention == 0 and rows >= inputs // attention * kv:
            head = inputs // attention  # v, or the last rows of a fused qkv
            yield Source(module, rows=head * kv, repeat=attention // kv, head=head)


def _holds(block: nn.Module, source: Source, group: list[Weight], run: Callable[[], Tensor], reference: Tensor) -> bool:
    """Whether the block gives the same when source and group are scaled against each other."""
    inputs = group[0].of(block).shape[1]
    powers = torch.randint(-1, 2, (inputs,), generator=torch.Generator().manual_seed(inputs)).float()
    if source.repeat > 1:
        powers = powers.reshape(-1, source.repeat, source.head)[:, :1].expand(-1, source.repeat, -1).flatten()
    touched = {weight.name for weight in group}
    touched |= {f"{source.module}.{leaf}" for leaf in block.get_submodule(source.module)._parameters}
    before = {name: value.data for name, value in block.named_parameters() if name in touched}
    fold(block, source, group, torch.exp2(powers))
    try:
        return bool((run() - reference).norm() <= SAME * reference.norm())
    finally:
        for name, value in before.items():
            fill(block, name, value)
