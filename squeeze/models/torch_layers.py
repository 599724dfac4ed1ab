"""Which layers of a torch model have a grid: Linear and convolutions, each as a matrix ``[out, in x kernel]``."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from squeeze.models.torch_model import TorchModel

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d)
Layer = nn.Linear | nn.Conv1d | nn.Conv2d


def layer_names(model: TorchModel) -> list[str]:
    """Names of the layers that have a grid, in the order in which they run; those that never do come last.

    A layer whose weight is another's too (an embedding's, tied) has none.
    """
    modules = dict(model.module.named_modules())
    owners = Counter(id(weight) for module in modules.values() for weight in module.parameters(recurse=False))
    order = model.counted().order
    names = [*(name for name in order if name in modules), *(name for name in modules if name not in order)]
    return [name for name in names if isinstance(modules[name], KINDS) and owners[id(modules[name].weight)] == 1]


def without_grid(model: TorchModel) -> dict[str, str]:
    """Layers with a weight matrix that have no grid, each with the reason."""
    known, reasons = set(layer_names(model)), {}
    for name, module in model.module.named_modules():
        weight = getattr(module, "weight", None)
        if name not in known and isinstance(weight, nn.Parameter) and weight.dim() > 1:
            kind = type(module).__name__
            tied = isinstance(module, KINDS)
            reasons[name] = "its weight is another layer's too" if tied else f"a {kind} has no grid"
    return reasons


def layer_of(model: TorchModel, name: str) -> Layer:
    module = model.module.get_submodule(name)
    assert isinstance(module, KINDS)
    return module


def groups_of(layer: Layer) -> int:
    """Groups of channels that do not see each other; 1 for a linear layer."""
    return 1 if isinstance(layer, nn.Linear) else int(layer.groups)
