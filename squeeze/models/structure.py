"""What a pruned network's own code cannot say: module sizes that differ from what its factory builds.

``difference`` compares two module trees and ``apply`` puts the difference onto a freshly built one, so a pruned
network is stored as safetensors and a small JSON file, and never as a pickle. Passes record nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from squeeze.errors import ModelError, first_line

SIZES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv1d: ("in_channels", "out_channels", "groups"),
    nn.Conv2d: ("in_channels", "out_channels", "groups"),
    nn.ConvTranspose2d: ("in_channels", "out_channels", "groups"),
    nn.Linear: ("in_features", "out_features"),
    nn.BatchNorm1d: ("num_features",),
    nn.BatchNorm2d: ("num_features",),
    nn.GroupNorm: ("num_groups", "num_channels"),
    nn.LayerNorm: ("normalized_shape",),
    nn.PReLU: ("num_parameters",),
}
CONV_OPTIONS = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
CREATED: dict[str, type[nn.Module]] = {"Conv2d": nn.Conv2d, "Linear": nn.Linear}  # what may stand in another's place

Difference = dict[str, dict[str, Any]]


def sizes(module: nn.Module) -> dict[str, Any] | None:
    """The sizes of one leaf module as JSON values, or None for a kind that has none."""
    kind = _kind(module)
    if kind is None:
        return None
    return {name: _plain(getattr(module, name)) for name in SIZES[kind]}


def difference(built: nn.Module, changed: nn.Module) -> Difference:
    """Module by module, what ``changed`` has that ``built`` (fresh from its factory) has not."""
    was = dict(built.named_modules())
    result: Difference = {}
    for name, module in changed.named_modules():
        if name in was and type(module) is type(was[name]) and _options(module) == _options(was[name]):
            if sizes(module) != sizes(was[name]):
                result[name] = {"sizes": sizes(module)}
        elif not _inside(name, result):
            result[name] = _replacement(name, module)
    return result


def _options(module: nn.Module) -> dict[str, Any]:
    """What else than sizes makes a layer compute something else."""
    names = (*CONV_OPTIONS, "bias") if hasattr(module, "kernel_size") else ("bias",)
    options = {name: getattr(module, name, None) for name in names}
    return options | {"bias": options["bias"] is not None}


def apply(module: nn.Module, difference: Difference) -> None:
    """Give a freshly built network the sizes and replaced modules of a stored one; the weights come after."""
    for name, entry in difference.items():
        try:
            current = module.get_submodule(name)
        except AttributeError:
            raise ModelError(f"structure.json: the model has no module '{name}'; was its code changed?") from None
        try:
            if "sizes" in entry:
                _resize(name, current, entry["sizes"])
            else:
                module.set_submodule(name, _created(name, entry))
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ModelError(f"structure.json: {name}: {first_line(error)}; was it changed by hand?") from None


def _kind(module: nn.Module) -> type[nn.Module] | None:
    """Which of the known kinds a module is; a user's own subclass is of its parent's."""
    return next((kind for kind in type(module).__mro__ if kind in SIZES), None)


def _inside(name: str, result: Difference) -> bool:
    return any(name.startswith(f"{other}.") for other, entry in result.items() if "type" in entry)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _replacement(name: str, module: nn.Module) -> dict[str, Any]:
    if isinstance(module, nn.Identity):
        return {"type": "Identity"}
    if type(module) is nn.Sequential:  # in a list: JSON with sorted keys would lose their order
        return {
            "type": "Sequential",
            "parts": [[n, _replacement(f"{name}.{n}", m)] for n, m in module.named_children()],
        }
    kind = type(module).__name__
    if kind not in CREATED or type(module) is not CREATED[kind]:
        raise ModelError(
            f"{name}: a {kind} put in place of another module cannot be stored; {' or '.join(CREATED)} can"
        )
    options = {name: _plain(getattr(module, name)) for name in CONV_OPTIONS if hasattr(module, name)}
    return {"type": kind, "options": {**(sizes(module) or {}), **options, "bias": module.bias is not None}}


def _created(name: str, entry: dict[str, Any], part: bool = False) -> nn.Module:
    kind = entry["type"]
    if kind == "Identity":
        return nn.Identity()
    if kind == "Sequential" and not part:  # parts of parts are never written: a file cannot nest without end
        return nn.Sequential(OrderedDict((n, _created(f"{name}.{n}", inner, part=True)) for n, inner in entry["parts"]))
    if kind not in CREATED:
        raise ModelError(f"structure.json: {name}: unknown module type {kind!r}; {' or '.join(CREATED)} may be there")
    options: Any = {key: tuple(value) if isinstance(value, list) else value for key, value in entry["options"].items()}
    return CREATED[kind](**options)


def _resize(name: str, current: nn.Module, new_sizes: dict[str, Any]) -> None:
    """Give a module other sizes and tensors of the shapes that follow; all else about it stays as it is."""
    kind = _kind(current)
    if kind is None or set(new_sizes) != set(SIZES[kind]):
        raise ModelError(f"structure.json: {name}: a {type(current).__name__} has no sizes {', '.join(new_sizes)}")
    options = {size: tuple(value) if isinstance(value, list) else value for size, value in new_sizes.items()}
    kernel = {"kernel_size": current.kernel_size} if hasattr(current, "kernel_size") else {}
    plain = kind(**options, **kernel)
    for size in options:
        setattr(current, size, getattr(plain, size))
    for tensors in (current._parameters, current._buffers):
        for tensor, old in tensors.items():
            if old is not None:
                tensors[tensor] = _like(getattr(plain, tensor), old)


def _like(new: Tensor, old: Tensor) -> Any:
    values = torch.zeros_like(new, dtype=old.dtype, device=old.device)
    return nn.Parameter(values, old.requires_grad) if isinstance(old, nn.Parameter) else values
