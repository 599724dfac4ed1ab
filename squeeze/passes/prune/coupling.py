"""Which layers must be cut together: Torch-Pruning's dependency graph, in Squeeze's words.

Fang et al., 2023, https://arxiv.org/abs/2301.12900. Three layers show the idea::

    conv1 -> bn1 -> conv2        cutting channel 3 of conv1 takes row 3 of conv1, entry 3 of bn1, column 3 of conv2

What to cut is not decided here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from squeeze.errors import ModelError
from squeeze.models.torch_model import TorchModel

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)


@dataclass(frozen=True)
class Member:
    """One layer of a coupled group: which of its rows (or columns) leave with which channel.

    Args:
        layer: Dotted module name.
        writes: The layer's outputs leave; else its inputs do.
        indices: Rows or columns, one or more per channel of the group.
        channels: For each index, the channel that takes it along.
    """

    layer: str
    writes: bool
    indices: tuple[int, ...]
    channels: tuple[int, ...]

    def per_channel(self, count: int) -> int:
        """How many of its rows or columns go with one channel (a flattened image: height times width)."""
        return len(self.indices) // count


@dataclass(frozen=True)
class Coupled:
    """Layers whose channels stay or go together."""

    name: str
    channels: int
    members: tuple[Member, ...]
    feeds_output: bool
    obstacle: str | None = None  # why it cannot be cut, where the graph itself says so

    @property
    def writers(self) -> tuple[str, ...]:
        """Layers that lose outputs."""
        return tuple(member.layer for member in self.members if member.writes)

    @property
    def readers(self) -> tuple[str, ...]:
        """Layers that lose inputs."""
        return tuple(member.layer for member in self.members if not member.writes)


class CouplingGraph:
    """The dependency graph of one model; ``cut`` changes the model, ``coupled`` describes it."""

    def __init__(self, model: TorchModel) -> None:
        self.module = model.module
        self.graph = _trace(model)
        self.names = {module: name for name, module in self.module.named_modules()}

    def coupled(self) -> list[Coupled]:
        """Every set of coupled layers, in the order in which the model names its layers."""
        order = {name: place for place, name in enumerate(self.names.values())}
        groups = [self._described(group) for group in self.graph.get_all_groups()]
        return sorted(groups, key=lambda group: order[group.name])

    def cut(self, group: Coupled, channels: list[int]) -> None:
        """Take these channels out of all layers of the group, in place."""
        root = self.module.get_submodule(group.name)
        prune = self.graph.get_pruner_of_module(root).prune_out_channels
        self.graph.get_pruning_group(root, prune, channels).prune(record_history=False)

    def _described(self, group: Any) -> Coupled:
        members = tuple(self._members(group))
        ends = any(self._is_output(item.dep) for item in group)
        first = min((m.layer for m in members if m.writes), key=list(self.names.values()).index)
        return Coupled(first, len(group[0].idxs), members, ends, self._obstacle(group))

    def _obstacle(self, group: Any) -> str | None:
        if any(isinstance(item.dep.target.module, nn.Parameter) for item in group):
            return "a parameter outside any layer depends on its channels"
        writers = [item.dep.target.module for item in group if self.graph.is_out_channel_pruning_fn(item.dep.handler)]
        sources = [module for module in writers if getattr(getattr(module, "weight", None), "ndim", 0) > 1]
        return "its channels are the network's input" if all(map(_is_depthwise, sources)) else None

    def _members(self, group: Any) -> Iterator[Member]:
        for item in group:
            module = item.dep.target.module
            if isinstance(module, nn.Module) and module in self.names and list(module.parameters(recurse=False)):
                writes = bool(self.graph.is_out_channel_pruning_fn(item.dep.handler))
                yield Member(self.names[module], writes, tuple(item.idxs), tuple(item.root_idxs))

    def _is_output(self, dependency: Any) -> bool:
        """Whether a dependency ends at the network's output, whose channels must stay."""
        return not dependency.target.outputs and bool(self.graph.is_out_channel_pruning_fn(dependency.handler))


def _is_depthwise(layer: nn.Module) -> bool:
    """Its outputs are its inputs' channels, which somebody else gives."""
    return isinstance(layer, CONVOLUTIONS) and layer.groups == layer.in_channels == layer.out_channels > 1


def _trace(model: TorchModel) -> Any:
    inputs = model.example().inputs
    try:
        with torch.enable_grad():
            return torch_pruning.DependencyGraph().build_dependency(
                model.module, inputs, forward_fn=lambda _, batch: model.forward(batch), verbose=False
            )
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise ModelError(
            f"the layers' coupling cannot be traced ({type(error).__name__}: {_first_line(error)}); "
            "the model's forward must give a tensor that depends on its layers"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def slices(module: nn.Module, group: Coupled, gradients: bool = False) -> list[Tensor]:
    """What leaves with each channel, one ``[channels, elements]`` tensor per member (or that of its gradient)."""
    parts = (_slice(module.get_submodule(member.layer), member, group.channels, gradients) for member in group.members)
    return [part for part in parts if part is not None]


def _slice(layer: nn.Module, member: Member, channels: int, gradients: bool) -> Tensor | None:
    rows = _rows(layer, member.writes, gradients)
    if rows is None or len(member.indices) % channels:
        return None
    index = torch.tensor(member.indices, device=rows.device)
    by_channel = torch.argsort(torch.tensor(member.channels), stable=True).to(rows.device)
    return rows[index[by_channel]].reshape(channels, -1)


def _rows(layer: nn.Module, writes: bool, gradients: bool) -> Tensor | None:
    """The layer's values, one row per output (or per input), ``[rows, elements]``."""
    values = [p.grad if gradients else p.detach() for p in layer.parameters(recurse=False)]
    weight, *rest = values
    if weight is None:
        return None
    if isinstance(layer, (*CONVOLUTIONS, nn.Linear)):
        outputs_first = not isinstance(layer, nn.ConvTranspose2d)
        return weight.flatten(1) if writes == outputs_first else weight.transpose(0, 1).flatten(1)
    return torch.stack([weight, *(value for value in rest if value is not None)], dim=1)
