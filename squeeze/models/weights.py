"""Reading weights from files as data: safetensors, or a torch state dict with ``weights_only=True``.

A file is never unpickled into code. Which module the weights belong to is the caller's business.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from squeeze.errors import ModelError, did_you_mean

Weights = dict[str, Tensor]

WRAPPERS = ("state_dict", "model_state_dict", "model")
WRAPPER_PREFIX = "module."  # nn.DataParallel's


def read_weights(path: Path) -> Weights:
    """Read every tensor of a ``.safetensors`` file, a torch state dict, or a Hugging Face folder."""
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise ModelError(f"{path}: no such weights file")
    weights = _read_safetensors(path) if path.suffix == ".safetensors" else _read_state_dict(path)
    if all(name.startswith(WRAPPER_PREFIX) for name in weights):
        weights = {name.removeprefix(WRAPPER_PREFIX): value for name, value in weights.items()}
    return weights


def write_weights(weights: Weights, path: Path) -> None:
    """Write tensors as safetensors; names sorted, so that equal weights are equal bytes."""
    save_file({name: weights[name].detach().contiguous() for name in sorted(weights)}, path)


def assign(module: nn.Module, weights: Weights, file: str) -> None:
    """Put the weights into the module; a missing, extra or misshapen tensor is an error that names it."""
    expected = module.state_dict()
    weights = {**_counters(expected), **weights}
    for name in expected:
        if name not in weights:
            raise ModelError(f"{file}: holds no '{name}', which the model needs{did_you_mean(name, weights)}")
        if expected[name].shape != weights[name].shape:
            have, want = list(weights[name].shape), list(expected[name].shape)
            raise ModelError(f"{file}: '{name}' has shape {have}; the model has {want}")
    for name in weights:
        if name not in expected:
            raise ModelError(f"{file}: holds '{name}', which the model has not{did_you_mean(name, expected)}")
    bad = next(
        (name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()), None
    )
    if bad is not None:
        raise ModelError(f"{file}: '{bad}' holds values that are not finite (NaN or infinity)")
    module.load_state_dict(weights, strict=True, assign=False)


def _counters(expected: Weights) -> Weights:
    """Batch norm's step counters, which checkpoints older than torch 0.4.1 do not hold: as freshly built."""
    return {name: value for name, value in expected.items() if name.endswith(".num_batches_tracked")}


def _read_folder(folder: Path) -> Weights:
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise ModelError(f"{folder}: no *.safetensors here")
    weights: Weights = {}
    for shard in shards:
        weights.update(_read_safetensors(shard))
    return weights


def _read_safetensors(path: Path) -> Weights:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a whole safetensors file ({error})") from None


def _read_state_dict(path: Path) -> Weights:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path}: not a whole torch state dict that is only weights ({first})") from None
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"{path}: holds no state dict (names to tensors), or one under 'state_dict'")
    return dict(content)
