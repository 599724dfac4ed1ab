"""Which weights a training changes, and how: themselves, through low-rank adapters, or through the grid they lie on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from squeeze.errors import SqueezeError
from squeeze.models.language.adapter import LowRank, adaptable
from squeeze.models.resident import Beside, Resident
from squeeze.training.adapters import Adapters
from squeeze.training.on_grid import put_on_grid, take_off_grid

Trained = Literal["all", "last_blocks", "norms", "lora"]
OnGrids = Literal["scales", "all", "adapter"]


@dataclass(frozen=True)
class TrainedWeights:
    """The weights of a student that are being trained.

    Args:
        finish: Undoes what was put into the module; gives what is to be written beside its weights.
    """

    count: int
    finish: Callable[[], Beside]


def train_some(student: Resident, train: Trained, blocks: int, rank: int, seed: int) -> TrainedWeights:
    """Let gradients reach what ``train`` names.

    Raises:
        SqueezeError: the model has none of it.
    """
    module = student.module.requires_grad_(train == "all")
    if train == "lora":
        module.requires_grad_(False)
        linears = _linears(module, student.blocks() or [module])
        adapters = Adapters(linears.values(), rank, seed)
        count = _trained(module, train)
        return TrainedWeights(count, lambda: Beside(merged=_updates(linears, adapters)))
    norms = [child for child in module.modules() if "Norm" in type(child).__name__]
    parts = {"all": [], "last_blocks": student.blocks()[-blocks:], "norms": norms}[train]
    for part in parts:
        part.requires_grad_(True)
    student.read_trained()
    return TrainedWeights(_trained(module, train), Beside)


def train_on_grid(student: Resident, how: OnGrids, rank: int, seed: int) -> TrainedWeights:
    """Train scales and zero points alone, all weights through the grids that theirs lie on, or adapters beside them."""
    if how == "adapter":
        return _train_beside(student, rank, seed)
    module, grids = student.module.requires_grad_(how == "all"), student.grids()
    for name in student.fixed():
        module.get_parameter(name).requires_grad_(False)
    for name, grid in grids.items():
        put_on_grid(module, name, grid, integers=how == "all")
    return TrainedWeights(
        _trained(module, f"quantized: {how}"),
        lambda: Beside({name: take_off_grid(module, name) for name in grids}),
    )


def _train_beside(student: Resident, rank: int, seed: int) -> TrainedWeights:
    """Adapters of the linears whose weights lie on a grid, which stays."""
    module, grids = student.module.requires_grad_(False), student.grids()
    for name in grids:
        weight = module.get_parameter(name)
        if not weight.is_meta:
            weight.data.copy_(grids[name].dequantize().reshape(weight.shape))
    linears = adaptable(module, grids)
    adapters = Adapters(linears.values(), rank, seed)
    count = _trained(module, "quantized: adapter")
    return TrainedWeights(count, lambda: Beside(grids, _updates(linears, adapters)))


def _updates(linears: Iterable[str], adapters: Adapters) -> dict[str, LowRank]:
    """What the adapters learnt, by their weights' names."""
    return dict(zip(linears, adapters.take_off(), strict=True))


def _linears(module: nn.Module, parts: Iterable[nn.Module]) -> dict[str, nn.Linear]:
    """Those of some parts of a module, by the full names of their weights."""
    names = {id(child): name for name, child in module.named_modules()}
    every = (child for part in parts for child in part.modules())
    return {f"{names[id(child)]}.weight": child for child in every if isinstance(child, nn.Linear)}


def _trained(module: nn.Module, what: str) -> int:
    count = sum(value.numel() for value in module.parameters() if value.requires_grad)
    if not count:
        raise SqueezeError(f"train: {what} names no weight of this model; all would do")
    return count
