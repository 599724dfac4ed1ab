"""A low-rank adapter beside a model's weights, which stay as they are: ``W + factor * up @ down``.

It lies in a folder of its own inside the model's, in the files and under the names of PEFT
(https://huggingface.co/docs/peft), so that others load it onto the same weights. How it came about is not known here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from squeeze.errors import ModelError
from squeeze.formats.regular import read_json
from squeeze.models.shards import Shards

FOLDER = "squeeze-adapter"  # no folder of a stranger's model, in which others would see no adapter
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX, DOWN, UP = "base_model.model.", "lora_A.weight", "lora_B.weight"  # PEFT's


@dataclass(frozen=True)
class LowRank:
    """What is added to one weight.

    Args:
        down: float32 ``[rank, in]``.
        up: float32 ``[out, rank]``.
        factor: Of their product.
    """

    down: Tensor
    up: Tensor
    factor: float

    def weight(self) -> Tensor:
        """float32 ``[out, in]``."""
        return self.factor * (self.up @ self.down)


class AdapterFolder:
    """What a model's folder holds of an adapter; updates are read as they are asked for.

    Raises:
        ModelError: files that are no such adapter.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        values = read_json(folder / CONFIG)
        if not isinstance(values, dict) or values.get("peft_type") != "LORA" or values.get("use_dora"):
            raise ModelError(f"{folder / CONFIG}: no adapter that is read here; one of PEFT's type LORA would be")
        rank, alpha = values.get("r"), values.get("lora_alpha")
        if not (isinstance(rank, int) and isinstance(alpha, int | float) and rank > 0 and math.isfinite(alpha)):
            raise ModelError(f"{folder / CONFIG}: r {rank!r} and lora_alpha {alpha!r} are no rank and no number")
        self.rank, self.factor = rank, alpha / rank
        self.shards = Shards(folder, [folder / WEIGHTS])

    @classmethod
    def beside(cls, folder: Path) -> AdapterFolder | None:
        """That of a model in a folder; None where it has none."""
        return cls(folder / FOLDER) if (folder / FOLDER / CONFIG).is_file() else None

    @cached_property
    def names(self) -> list[str]:
        """Of the weights that have an update, as the module calls them."""
        pieces = [name.removeprefix(PREFIX) for name in self.shards.pieces if name.endswith(DOWN)]
        return [f"{name.removesuffix(DOWN)}weight" for name in pieces]

    def require_fit(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise ``ModelError`` where it is not of weights of these shapes, by their names in the module."""
        expected: dict[str, tuple[int, ...]] = {}
        for name in self.names:
            if len(shape := shapes.get(name, ())) != 2:
                raise ModelError(f"{self.folder}: an update of '{name}', which is no matrix of the model")
            base = PREFIX + name.removesuffix("weight")
            expected |= {base + DOWN: (self.rank, shape[1]), base + UP: (shape[0], self.rank)}
        stored = {name: piece.shape for name, piece in self.shards.pieces.items()}
        for name in sorted(expected.keys() | stored.keys()):
            if stored.get(name) != expected.get(name):
                what = f"{list(stored.get(name, ()))} on disk, {list(expected.get(name, ()))} by model and rank"
                raise ModelError(f"{self.folder}: '{name}' does not fit: {what}")

    @property
    def files(self) -> list[Path]:
        return [self.folder / CONFIG, self.folder / WEIGHTS]

    def nbytes(self) -> int:
        """On disk."""
        return sum(file.stat().st_size for file in self.files)

    def parameters(self) -> int:
        """How many values were trained."""
        return sum(torch.Size(piece.shape).numel() for piece in self.shards.pieces.values())

    def update(self, name: str) -> LowRank:
        """Of a weight, by its name in the module."""
        base = PREFIX + name.removesuffix("weight")
        return LowRank(self.shards.read(base + DOWN), self.shards.read(base + UP), self.factor)

    def added(self, name: str, value: Tensor) -> Tensor:
        """A weight with what the adapter adds to it, in the weight's own dtype."""
        return (value.float() + self.update(name).weight()).to(value.dtype) if name in self.names else value


def adaptable(module: nn.Module, names: Collection[str]) -> dict[str, nn.Linear]:
    """The linears of a module whose weights are among these names, by the weights' names."""
    linears = {f"{name}.weight": part for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    return {name: linears[name] for name in names if name in linears}


def write_adapter(model_folder: Path, updates: Mapping[str, LowRank]) -> None:
    """Write an adapter into a model's folder.

    Args:
        updates: By the weights' names in the module; all of one rank and factor.
    """
    (folder := model_folder / FOLDER).mkdir(exist_ok=True)
    first = next(iter(updates.values()))
    rank = len(first.down)
    assert all((len(each.down), each.factor) == (rank, first.factor) for each in updates.values()), "PEFT names one"
    modules = sorted({name.removesuffix(".weight").rpartition(".")[2] for name in updates})
    values = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": first.factor * rank}
    values |= {"target_modules": modules, "bias": "none", "base_model_name_or_path": None, "inference_mode": True}
    (folder / CONFIG).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    tensors: dict[str, Tensor] = {}
    for name in sorted(updates):
        base = PREFIX + name.removesuffix("weight")
        tensors |= {base + DOWN: updates[name].down.contiguous(), base + UP: updates[name].up.contiguous()}
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
