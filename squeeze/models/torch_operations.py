"""The operations of a torch network for one example, layer by layer, as floats: what its exported graph will run.

Functions that are no modules (an addition between two blocks) are not seen; they take little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod, sqrt
from typing import Any

from torch import Tensor, nn

from squeeze.blocks.hooks import watched_modules
from squeeze.formats.operation import WIDE, Kind, Operation, product

FOLDED = (nn.Identity, nn.Dropout, nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.BatchNorm1d, nn.BatchNorm2d, nn.Flatten)
WITHOUT_PRODUCTS: dict[Kind, tuple[type[nn.Module], ...]] = {
    "curve": (nn.GELU, nn.Sigmoid, nn.SiLU, nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.Mish, nn.ELU, nn.Softplus),
    "norm": (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d),
    "softmax": (nn.Softmax, nn.LogSoftmax),
    "move": (nn.Embedding, nn.PixelShuffle, nn.Unflatten),
}


def operations(module: nn.Module, run: Callable[[], object], macs: Mapping[str, int | None]) -> list[Operation] | None:
    """In the order in which a run calls them; None where a product is not known.

    Args:
        run: Calls the module with one example.
        macs: By the module's name, as ``MacCounter`` counts them; those of a module with parts are attention's.
    """
    if None in macs.values():
        return None
    found: list[Operation] = []

    def see(name: str, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        tensors = [value for value in (*inputs, output) if isinstance(value, Tensor)]
        count = macs.get(name) or 0
        if isinstance(output, Tensor) and (operation := _operation(layer, tensors, output, count)) is not None:
            found.append(operation)

    with watched_modules(module.named_modules(), see):
        run()
    return found


def _operation(layer: nn.Module, tensors: list[Tensor], output: Tensor, macs: int) -> Operation | None:
    values = sum(tensor[:1].numel() for tensor in tensors)
    weight = getattr(layer, "weight", None)
    if macs and isinstance(weight, Tensor) and weight.dim() > 2:
        return _convolution(layer, weight, output, values, macs)
    if macs:
        columns = output.shape[-1]
        rows = max(output[:1].numel() // columns, 1)
        stored = 0 if weight is None else WIDE["float"] * weight.numel()
        return product(rows, max(macs // (rows * columns), 1), columns, "float", stored)
    if list(layer.children()) or isinstance(layer, FOLDED):
        return None
    kind: Kind = next((kind for kind, kinds in WITHOUT_PRODUCTS.items() if isinstance(layer, kinds)), "light")
    return Operation(kind, "float", values=values)


def _convolution(layer: nn.Module, weight: Tensor, output: Tensor, values: int, macs: int) -> Operation:
    groups, kernel = int(getattr(layer, "groups", 1)), prod(weight.shape[2:])
    places = prod(output.shape[2:])
    kind: Kind = "depthwise" if groups > 1 and weight.shape[1] == 1 else "pointwise" if kernel == 1 else "conv"
    channels = float(groups) if kind == "depthwise" else sqrt(macs / (places * kernel * groups))
    return Operation(kind, "float", macs, channels, places, values, WIDE["float"] * weight.numel())
