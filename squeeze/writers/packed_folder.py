"""A quantized model under the names of its family's checkpoints: grids by linear, experts one by one, the rest float16.

What GPTQ checkpoints and compressed-tensors folders have in common: packed linears beside float16 tensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import ModelError
from squeeze.formats.grid_kind import GridKind
from squeeze.models.language.dense import copy_side_files, write_shards
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.names import as_stored

WEIGHT = ".weight"
Pack = Callable[[QuantizedTensor], dict[str, Tensor]]
Holds = Callable[[GridKind], str | None]


@dataclass(frozen=True)
class Linears:
    """Modules by their names in a checkpoint.

    Args:
        packed: The kind of grid of each module that is packed.
        left_out: Linears inside the blocks that are not.
        ends: The head, which stays as it is.
    """

    packed: dict[str, GridKind]
    left_out: list[str]
    ends: list[str]


def linears(model: LanguageModel, holds: Holds) -> Linears:
    """Which modules of a checkpoint are packed.

    Raises:
        ModelError: nothing is quantized, or a weight that the format cannot hold, with the reason.
    """
    ends = set(model.skeleton.ends)
    kinds = {name: kind for name, kind in model.grid_kinds().items() if name not in ends}
    if not kinds:
        raise ModelError(f"{model.folder}: no weight is quantized; a pass such as rtn or gptq would do it")
    packed = {}
    for name, kind in kinds.items():
        for stock, value in _as_stored(model, {name: torch.empty(model.grid[name].shape, device="meta")}).items():
            own = GridKind(value.shape[0], kind.columns, kind.bits, kind.group_size, kind.symmetric, kind.ordered)
            packed[_module(stock, value)] = own
            if reason := holds(own):
                raise ModelError(f"{_module(stock, value)}: {reason}")
    return Linears(packed, *_others(model, packed))


def write_packed(model: LanguageModel, folder: Path, pack: Pack, quantization: Mapping[str, Any]) -> None:
    """Write a checkpoint, one block in memory at a time.

    Args:
        pack: A grid as the tensors that lie beside a linear's name.
        quantization: What config.json says of it.
    """
    copy_side_files(model.folder, folder)
    file = folder / "config.json"
    values = _in_half(json.loads(file.read_text()))
    file.write_text(json.dumps(values | {"quantization_config": dict(quantization)}, indent=2) + "\n")
    write_shards(model.skeleton, folder, lambda names: _stored(model, names, pack))


def stock_grids(model: LanguageModel, names: list[str]) -> dict[str, QuantizedTensor]:
    """The grids of some quantized weights by the modules' names in a checkpoint; experts one by one."""
    grids = {}
    for name in names:
        grid = model.quantized(name)
        rows = torch.arange(len(grid.q)).reshape(*model.grid[name].shape[:-1], 1)
        for stock, own in _as_stored(model, {name: rows}).items():
            grids[_module(stock, own)] = grid.rows(own.flatten())
    return grids


def stock_dense(model: LanguageModel, names: list[str]) -> dict[str, Tensor]:
    """Some weights under the names of a checkpoint; raises ``ModelError`` where one is too large for float16."""
    stored = _as_stored(model, {name: model.tensor(name) for name in names})
    return {name: _half(name, value) for name, value in stored.items()}


def packed_names(model: LanguageModel, names: list[str]) -> list[str]:
    """Those of some tensors that are packed: quantized ones, but embedding and head, which readers take as they are."""
    ends = set(model.skeleton.ends)
    return [name for name in names if name in model.grid and name not in ends]


def _stored(model: LanguageModel, names: list[str], pack: Pack) -> dict[str, Tensor]:
    packed = packed_names(model, names)
    tensors = stock_dense(model, [name for name in names if name not in packed])
    for module, grid in stock_grids(model, packed).items():
        try:
            tensors |= {f"{module}.{part}": value for part, value in pack(grid).items()}
        except ModelError as error:
            raise ModelError(f"{module}: {error}") from None
    return tensors


def _as_stored(model: LanguageModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return as_stored(model.skeleton.module, dict(tensors)) if tensors else {}


def _module(stock: str, value: Tensor) -> str:
    if value.dim() != 2 or not stock.endswith(WEIGHT):
        what = f"experts in one tensor {list(value.shape)}"
        raise ModelError(f"{stock}: {what}, where a packed checkpoint has a linear for each; GGUF or ONNX would do")
    return stock.removesuffix(WEIGHT)


def _others(model: LanguageModel, packed: Mapping[str, GridKind]) -> tuple[list[str], list[str]]:
    """Linears that are not packed: those inside, and the head (also a tied one)."""
    module = model.skeleton.module
    embedding, head = module.get_input_embeddings(), module.get_output_embeddings()  # type: ignore[operator]
    every = dict(module.named_parameters(remove_duplicate=False))
    ends = [name for name, child in module.named_modules() if child is head]
    own = {f"{name}{WEIGHT}" for name, child in module.named_modules() if child in (embedding, head)}
    plain = {n: v for n, v in every.items() if v.dim() == 2 and n.endswith(WEIGHT) and n not in own | set(model.grid)}
    both = dict.fromkeys([*_as_stored(model, plain), *plain])  # some readers go by the checkpoint, some by the module
    left_out = [name.removesuffix(WEIGHT) for name in both]
    return [name for name in left_out if name not in packed], ends


def _in_half(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the same model in float16, its towers' too."""
    values = {key: _in_half(value) if isinstance(value, Mapping) else value for key, value in config.items()}
    if "torch_dtype" in values or "dtype" in values or "architectures" in values:
        values = {key: value for key, value in values.items() if key != "torch_dtype"} | {"dtype": "float16"}
    return values


def _half(name: str, value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value
    half = value.to(torch.float16)
    largest = max(abs(float(half.amin())), abs(float(half.amax())))
    if not math.isfinite(largest):
        raise ModelError(f"{name}: {float(value.abs().max()):.3g} is too large for float16, in which it is stored")
    return half
