"""Reading weights from files as data: safetensors, or a torch state dict with ``weights_only=True``.

A file is never unpickled into code. Which module the weights belong to is the caller's business.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from squeeze.errors import ModelError, did_you_mean, first_line
from squeeze.formats.regular import require_regular

Weights = dict[str, Tensor]

WRAPPERS = ("state_dict", "model_state_dict", "model")
WRAPPER_PREFIX = "module."  # nn.DataParallel's


def read_weights(path: Path) -> Weights:
    """Read every tensor of a ``.safetensors`` file, a torch state dict, or a Hugging Face folder."""
    require_regular(path)
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
    save_file(dict(_apart(weights)), path)


def _apart(weights: Weights) -> Iterator[tuple[str, Tensor]]:
    """Each tensor with memory of its own, as the format wants it: tied weights are written once per name."""
    pointers: set[int] = set()
    for name in sorted(weights):
        tensor = weights[name].detach().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        yield name, tensor.clone() if memory in pointers else tensor
        pointers.add(memory)


def assign(module: nn.Module, weights: Weights, file: str) -> None:
    """Put the weights into the module; a missing, extra or misshapen tensor is an error that names it."""
    expected = module.state_dict()
    # batch norm's step counters, which checkpoints older than torch 0.4.1 do not hold: as freshly built
    weights = {n: value for n, value in expected.items() if n.endswith(".num_batches_tracked")} | weights
    for name in expected:
        if name not in weights:
            raise ModelError(f"{file}: holds no '{name}', which the model needs{did_you_mean(name, weights)}")
        _require_alike(file, name, weights[name], expected[name])
    for name in weights:
        if name not in expected:
            raise ModelError(f"{file}: holds '{name}', which the model has not{did_you_mean(name, expected)}")
    _require_finite(module, weights, file)
    module.load_state_dict(weights, strict=True, assign=False)


def _require_alike(file: str, name: str, value: Tensor, expected: Tensor) -> None:
    """Same shape, and numbers of the same kind: half precision may become float, integers may not."""
    if value.shape != expected.shape:
        raise ModelError(f"{file}: '{name}' has shape {list(value.shape)}; the model has {list(expected.shape)}")
    if value.is_floating_point() != expected.is_floating_point() or value.is_complex() != expected.is_complex():
        have, want = (str(tensor.dtype).removeprefix("torch.") for tensor in (value, expected))
        raise ModelError(f"{file}: '{name}' holds {have}; the model has {want}")


def _require_finite(module: nn.Module, weights: Weights, file: str) -> None:
    """No NaN anywhere and no infinity among the parameters; a buffer may hold one, as attention masks do."""
    parameters = dict(module.named_parameters())
    for name, value in weights.items():
        if value.isnan().any() or (name in parameters and value.isinf().any()):
            raise ModelError(f"{file}: '{name}' holds values that are not finite (NaN or infinity)")


def _read_folder(folder: Path) -> Weights:
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise ModelError(f"{folder}: no *.safetensors here")
    weights: Weights = {}
    for shard in shards:
        weights.update(_read_safetensors(shard))
    return weights


def _read_safetensors(path: Path) -> Weights:
    require_regular(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a whole safetensors file ({first_line(error)})") from None


def _read_state_dict(path: Path) -> Weights:
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's advice on how to read the file anyway
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch's own message advises to run what the file holds
        raise ModelError(
            f"{path}: not a torch state dict of weights alone, and code in a file is never run; "
            "torch.save(model.state_dict(), ...) or safetensors would do"
        ) from None
    except Exception as error:  # bytes that are no pickle make the reader fail in any way
        reason = first_line(error).split(". ")[0] if isinstance(error, RuntimeError) else type(error).__name__
        raise ModelError(f"{path}: not a whole torch state dict ({reason})") from None
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise ModelError(f"{path}: holds no state dict (names to tensors), or one under 'state_dict'")
    return dict(content)
