"""What goes into a layer while calibration data run, as rows of products: a convolution's inputs unfolded (im2col).

Shapes: ``groups`` = groups of channels that do not see each other, ``columns`` = what one output channel sums over,
``tokens`` = examples x places that the kernel is put at.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from squeeze.blocks.hooks import watched_modules
from squeeze.models.base import Batch
from squeeze.models.torch_call import forward
from squeeze.models.torch_layers import Layer, groups_of
from squeeze.models.torch_model import TorchModel

EXAMPLES = 32  # examples run together
VALUES = 1 << 23  # values of unfolded inputs at once: 32 MB
TOKENS = 1 << 16  # places sampled per layer: neighbouring ones of an image are nearly equal


def piece_of(index: int) -> str:
    """What the journal calls a layer of a network that is changed layer by layer."""
    return f"layer-{index:05d}"


class _Enough(Exception):
    """No error: all that was to be seen has been."""


def outputs_of(model: TorchModel, names: list[str]) -> dict[str, list[Tensor]]:
    """What each layer gives for one made-up example, once per call; those that do not run are left out."""
    outputs: dict[str, list[Tensor]] = {}

    def note(name: str, _: nn.Module, __: object, output: Tensor) -> None:
        outputs.setdefault(name, []).append(output)

    with watched_modules([(name, model.module.get_submodule(name)) for name in names], note):
        model.predict(model.example())
    return outputs


@torch.no_grad()
def inputs_of(model: TorchModel, layer: Layer, batch: Batch, calls: int) -> list[Tensor]:
    """What a layer is given for a batch, once per call; the run ends with the last one."""
    inputs: list[Tensor] = []

    def see(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs.append(args[0] if args else kwargs["input"])
        if len(inputs) == calls:
            raise _Enough

    with layer.register_forward_pre_hook(see, with_kwargs=True), suppress(_Enough):
        forward(model.module, batch.inputs)
    return inputs


@torch.no_grad()
def unfolded(layer: Layer, value: Tensor, step: int = 1) -> Iterator[Tensor]:
    """``[groups, tokens, columns]``, parts that fit VALUES; columns as the flattened weight has them.

    Args:
        step: One token in so many is taken.
    """
    if isinstance(layer, nn.Linear):
        yield value.reshape(1, -1, value.shape[-1])[:, ::step]
        return
    padded = _padded(layer, value)
    per_example = layer.weight[0].numel() * groups_of(layer) * padded[0, 0].numel()
    for part in torch.split(padded, max(1, VALUES // per_example)):
        columns = _im2col(layer, part)[..., ::step]  # [examples, channels x kernel, places]
        grouped = columns.reshape(len(part), groups_of(layer), -1, columns.shape[-1])
        yield grouped.permute(1, 0, 3, 2).reshape(groups_of(layer), -1, grouped.shape[2])


def step_for(layer: Layer, output: Tensor, examples: int) -> int:
    """Which part of the tokens of so many examples are at most TOKENS, by what the layer gives for one.

    Odd, so that every column of an image of even width has its turn.
    """
    places = output[0, ..., 0].numel() if isinstance(layer, nn.Linear) else output[0, 0].numel()
    step = -(-places * examples // TOKENS)
    return step + (step > 1 and step % 2 == 0)


def _padded(layer: nn.Conv1d | nn.Conv2d, value: Tensor) -> Tensor:
    """The input with its border, as the layer's own padding makes it."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return functional.pad(value, layer._reversed_padding_repeated_twice, mode=mode)


def _im2col(layer: nn.Conv1d | nn.Conv2d, padded: Tensor) -> Tensor:
    """``[examples, channels x kernel, places]`` of padded inputs."""
    if isinstance(layer, nn.Conv2d):
        return functional.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)
    (kernel,), (dilation,), (stride,) = layer.kernel_size, layer.dilation, layer.stride
    return functional.unfold(padded[:, :, None], (1, kernel), (1, dilation), 0, (1, stride))
