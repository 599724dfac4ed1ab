"""What a pruned network's own code cannot say: module sizes that differ from what its factory builds.

``difference`` compares two module trees and ``apply`` puts the difference onto a freshly built one, so a pruned
network is stored as safetensors and a small JSON file, and never as a pickle. Passes record nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from squeeze.errors import ModelError

SIZES: dict[str, tuple[str, ...]] = {
    "Conv1d": ("in_channels", "out_channels", "groups"),
    "Conv2d": ("in_channels", "out_channels", "groups"),
    "ConvTranspose2d": ("in_channels", "out_channels", "groups"),
    "Linear": ("in_features", "out_features"),
    "BatchNorm1d": ("num_features",),
    "BatchNorm2d": ("num_features",),
    "GroupNorm": ("num_groups", "num_channels"),
    "LayerNorm": ("normalized_shape",),
    "PReLU": ("num_parameters",),
}
CONV_OPTIONS = ("kernel_size", "stride", "padding", "dilation")

Difference = dict[str, dict[str, Any]]


def sizes(module: nn.Module) -> dict[str, Any] | None:
    """The sizes of one leaf module as JSON values, or None for a kind that has none."""
    names = SIZES.get(type(module).__name__)
    if names is None:
        return None
    return {name: _plain(getattr(module, name)) for name in names}


def difference(built: nn.Module, changed: nn.Module) -> Difference:
    """Module by module, what ``changed`` has that ``built`` (fresh from its factory) has not."""
    was = dict(built.named_modules())
    result: Difference = {}
    for name, module in changed.named_modules():
        if name in was and type(module) is type(was[name]):
            if sizes(module) != sizes(was[name]):
                result[name] = {"sizes": sizes(module)}
        elif not _inside(name, result):
            result[name] = _replacement(name, module)
    return result


def apply(module: nn.Module, difference: Difference) -> None:
    """Give a freshly built network the sizes and replaced modules of a stored one; the weights come after."""
    for name, entry in difference.items():
        try:
            current = module.get_submodule(name)
        except AttributeError:
            raise ModelError(f"structure.json: the model has no module '{name}'; was its code changed?") from None
        new = _rebuilt(current, entry["sizes"]) if "sizes" in entry else _created(name, entry)
        _put(module, name, new)


def _inside(name: str, result: Difference) -> bool:
    return any(name.startswith(f"{other}.") for other, entry in result.items() if "type" in entry)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _replacement(name: str, module: nn.Module) -> dict[str, Any]:
    if isinstance(module, nn.Identity):
        return {"type": "Identity"}
    if type(module) is not nn.Conv2d:
        raise ModelError(
            f"{name}: a {type(module).__name__} put in place of another module cannot be stored; Conv2d can"
        )
    options = {name: _plain(getattr(module, name)) for name in CONV_OPTIONS}
    return {"type": "Conv2d", "options": {**(sizes(module) or {}), **options, "bias": module.bias is not None}}


def _created(name: str, entry: dict[str, Any]) -> nn.Module:
    if entry.get("type") == "Identity":
        return nn.Identity()
    if entry.get("type") != "Conv2d":
        raise ModelError(
            f"structure.json: {name}: unknown module type {entry.get('type')!r}; Conv2d is what it may hold"
        )
    options: Any = {key: tuple(value) if isinstance(value, list) else value for key, value in entry["options"].items()}
    return nn.Conv2d(**options)


def _rebuilt(current: nn.Module, new_sizes: dict[str, Any]) -> nn.Module:
    """A module of the same kind and options with other sizes."""
    options = {name: tuple(v) if isinstance(v, list) else v for name, v in new_sizes.items()}
    kind = type(current)
    with torch.device(next(current.parameters()).device if list(current.parameters()) else "cpu"):
        if isinstance(current, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d):
            same = {name: getattr(current, name) for name in CONV_OPTIONS}
            return kind(**options, **same, bias=current.bias is not None, padding_mode=current.padding_mode)
        if isinstance(current, nn.Linear):
            return kind(**options, bias=current.bias is not None)
        if isinstance(current, nn.BatchNorm1d | nn.BatchNorm2d):
            return kind(**options, eps=current.eps, momentum=current.momentum, affine=current.affine)
        if isinstance(current, nn.GroupNorm | nn.LayerNorm):
            return kind(**options, eps=current.eps)
        return kind(**options)


def _put(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    root.get_submodule(parent).set_submodule(leaf, module) if parent else root.set_submodule(leaf, module)
