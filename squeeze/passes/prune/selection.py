"""Which coupled layers a plan lets us cut, why the others stay, and how each layer's size follows from the widths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from squeeze.algorithms.widths import LayerSize, Widths
from squeeze.blocks.hooks import watched_modules
from squeeze.errors import did_you_mean
from squeeze.measure.latency_table import ConvPlace
from squeeze.models.options import matches
from squeeze.models.torch_model import TorchModel
from squeeze.passes.prune.coupling import CONVOLUTIONS, Coupled
from squeeze.passes.prune.scores import Importance, batch_norm_scales
from squeeze.passes.prune.shortcuts import widening_modules

CUTTABLE = (*CONVOLUTIONS, nn.Linear)


@dataclass(frozen=True)
class Selection:
    """Include and exclude patterns over dotted layer names."""

    include: tuple[str, ...]
    exclude: tuple[str, ...]

    def refusal(self, layers: Iterable[str]) -> str | None:
        """Why these layers, which can only be cut together, are not cut; None: they are."""
        for layer in layers:
            if not matches(layer, self.include):
                return f"{layer} is not included"
            for pattern in self.exclude:
                if fnmatchcase(layer, pattern):
                    return f'{layer} is excluded by "{pattern}"'
        return None

    def faults(self, layers: Sequence[str]) -> Iterator[str]:
        """One line per pattern that matches no layer."""
        for option, patterns in (("include", self.include), ("exclude", self.exclude)):
            for pattern in patterns:
                if not any(fnmatchcase(layer, pattern) for layer in layers):
                    yield f'{option} "{pattern}" matches no layer{did_you_mean(pattern, layers)}'


def cuttable_layers(model: TorchModel) -> list[str]:
    """Names that ``include`` and ``exclude`` may match: convolutions, linear layers, zero-padded shortcuts."""
    widening = widening_modules(model)
    return [name for name, m in model.module.named_modules() if isinstance(m, CUTTABLE) or name in widening]


def select(
    model: TorchModel, groups: Iterable[Coupled], selection: Selection, kind: Importance
) -> tuple[list[Coupled], dict[str, str]]:
    """The groups that may be cut, and for each other one the reason why it stays."""
    chosen, skipped = [], {}
    for group in groups:
        cut = [name for name in group.writers if isinstance(model.module.get_submodule(name), CUTTABLE)]
        reason = _obstacle(model.module, group, kind) or selection.refusal(cut)
        if reason is None:
            chosen.append(group)
        else:
            skipped[group.name] = reason
    return chosen, skipped


def layer_sizes(model: TorchModel, groups: Sequence[Coupled]) -> list[LayerSize]:
    """Every convolution and linear layer as a function of the groups' widths."""
    macs = {layer.name: layer.macs for layer in model.layers()}
    modules = [(name, m) for name, m in model.module.named_modules() if isinstance(m, CUTTABLE)]
    return [_layer_size(name, module, macs.get(name) or 0, groups) for name, module in modules]


def total_macs(sizes: Iterable[LayerSize], full: Widths, widths: Widths) -> int:
    """Multiply-accumulates of the whole model for one example."""
    return sum(size.macs(full, widths) for size in sizes)


def places(model: TorchModel) -> dict[str, ConvPlace]:
    """Where each convolution and linear layer stands, as far as its time can be measured."""
    result: dict[str, ConvPlace] = {}

    def note(name: str, layer: nn.Module, inputs: tuple[torch.Tensor, ...], _: object) -> None:
        if (place := ConvPlace.of(layer, inputs[0].shape)) is not None:
            result[name] = place

    layers = [(name, layer) for name, layer in model.module.named_modules() if isinstance(layer, CUTTABLE)]
    with watched_modules(layers, note):
        model.predict(model.example())
    return result


def _layer_size(name: str, module: nn.Module, macs: int, groups: Sequence[Coupled]) -> LayerSize:
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    if isinstance(module, nn.Linear):
        inputs, outputs, depthwise = module.in_features, module.out_features, False
    else:
        assert isinstance(module, CONVOLUTIONS)
        inputs, outputs = module.in_channels, module.out_channels
        depthwise = module.groups == inputs == outputs > 1
    writes = [number for number, group in enumerate(groups) if name in group.writers]
    reads = tuple(
        (number, member.per_channel(group.channels))
        for number, group in enumerate(groups)
        for member in group.members
        if member.layer == name and not member.writes and not depthwise
    )
    pairs = outputs if depthwise else inputs * outputs
    return LayerSize(name, inputs, outputs, writes[0] if writes else None, reads, macs / pairs, depthwise)


def _obstacle(module: nn.Module, group: Coupled, kind: Importance) -> str | None:
    layers = [(name, module.get_submodule(name)) for name in (*group.writers, *group.readers)]
    grouped = [name for name, layer in layers if isinstance(layer, CONVOLUTIONS) and 1 < layer.groups < _width(layer)]
    if group.feeds_output:
        return "its channels are the network's output"
    if group.obstacle:
        return group.obstacle
    if grouped:
        return f"{grouped[0]} is a grouped convolution"
    if kind == "bn_scale" and not batch_norm_scales(module, group):
        return "bn_scale has no batch norm to read here"
    return None


def _width(layer: nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d) -> int:
    return max(layer.in_channels, layer.out_channels)
