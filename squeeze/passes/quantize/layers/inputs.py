"""What goes into a layer while calibration data run, as rows of products: a convolution's inputs unfolded (im2col).

Shapes: ``groups`` = groups of channels that do not see each other, ``columns`` = what one output channel sums over,
``tokens`` = examples x places that the kernel is put at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from squeeze.data.base import Dataset
from squeeze.models.base import Batch
from squeeze.models.torch_model import TorchModel, forward
from squeeze.passes.quantize.layers.choice import Layer, groups_of

EXAMPLES = 32  # that run together
VALUES = 1 << 23  # of unfolded inputs at once: 32 MB


def batches(data: Dataset) -> Iterator[Batch]:
    """The calibration examples, a few at a time."""
    yield from data.batches(EXAMPLES)


class _Enough(Exception):
    """No error: all that was to be seen has been."""


def count_calls(model: TorchModel, names: list[str]) -> Counter[str]:
    """How often each layer runs for one example."""
    calls: Counter[str] = Counter()
    with ExitStack() as hooks:
        for name in names:
            layer = model.module.get_submodule(name)
            hooks.enter_context(layer.register_forward_hook(lambda *_, name=name: calls.update([name])))
        model.predict(model.example())
    return calls


@torch.no_grad()
def inputs_of(model: TorchModel, layer: Layer, batch: Batch, calls: int) -> list[Tensor]:
    """What a layer is given for a batch, once per call; the run ends with the last one."""
    given: list[Tensor] = []

    def see(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given.append(args[0] if args else kwargs["input"])
        if len(given) == calls:
            raise _Enough

    with layer.register_forward_pre_hook(see, with_kwargs=True), suppress(_Enough):
        forward(model.module, batch.inputs)
    return given


@torch.no_grad()
def unfolded(layer: Layer, given: Tensor) -> Iterator[Tensor]:
    """``[groups, tokens, columns]``, parts that fit VALUES; columns as the flattened weight has them."""
    if isinstance(layer, nn.Linear):
        yield given.reshape(1, -1, given.shape[-1])
        return
    padded = _padded(layer, given)
    per_example = layer.weight[0].numel() * groups_of(layer) * padded[0, 0].numel()
    for part in torch.split(padded, max(1, VALUES // per_example)):
        columns = _im2col(layer, part)  # [examples, channels x kernel, places]
        grouped = columns.reshape(len(part), groups_of(layer), -1, columns.shape[-1])
        yield grouped.permute(1, 0, 3, 2).reshape(groups_of(layer), -1, grouped.shape[2])


def _padded(layer: nn.Conv1d | nn.Conv2d, given: Tensor) -> Tensor:
    """The input with its border, as the layer's own padding makes it."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return functional.pad(given, layer._reversed_padding_repeated_twice, mode=mode)


def _im2col(layer: nn.Conv1d | nn.Conv2d, padded: Tensor) -> Tensor:
    """``[examples, channels x kernel, places]`` of padded inputs."""
    if isinstance(layer, nn.Conv2d):
        return functional.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)
    (kernel,), (dilation,), (stride,) = layer.kernel_size, layer.dilation, layer.stride
    return functional.unfold(padded[:, :, None], (1, kernel), (1, dilation), 0, (1, stride))
