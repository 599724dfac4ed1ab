"""A copy of a model without weights that can run: random weights, the same layers, the same coupling."""

from __future__ import annotations

import copy

import torch
from torch import nn

from squeeze.models.torch_model import TorchModel


def materialized(model: TorchModel) -> TorchModel:
    """A copy on the CPU; weights that lie on the meta device become noise, always the same."""
    module = copy.deepcopy(model.module)
    if model.is_meta:
        module = module.to_empty(device="cpu")
        generator = torch.Generator().manual_seed(0)
        for layer in module.modules():
            _fill(layer, generator)
    return TorchModel(module, model.source, model.inputs)


def _fill(layer: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in layer.parameters(recurse=False):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        for name, buffer in layer.named_buffers(recurse=False):
            buffer.fill_(1 if name == "running_var" else 0)
