"""Zero-padded shortcuts become the convolutions that they are.

ResNet's option A (He et al., 2016, https://arxiv.org/abs/1512.03385) widens the residual stream with
``F.pad(x[:, :, ::2, ::2], ...)``: a strided choice of channels among zeros. Dependency graphs cannot follow it, so
the channels of the stream could never be cut. Any module without parameters that is *found by measurement* to do
just that is replaced by the bias-free 1 x 1 convolution with the same output: the graph then sees which layers are
coupled, fine-tuning may train it, and a runtime need not leave its blocked layout for a slice and a pad.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from squeeze.blocks.hooks import watched_modules
from squeeze.models.torch_model import TorchModel

Shapes = dict[str, tuple[torch.Size, torch.Size]]


def convolve_shortcuts(model: TorchModel) -> list[str]:
    """Replace every such module in place, function-preserving; the names of those replaced, in order."""
    replaced = []
    for name, (input_shape, output_shape) in widening_modules(model).items():
        conv = selection_as_convolution(model.module.get_submodule(name), input_shape, output_shape)
        if conv is not None:
            model.module.set_submodule(name, conv)
            replaced.append(name)
    return replaced


def selection_as_convolution(module: nn.Module, input_shape: torch.Size, output_shape: torch.Size) -> nn.Conv2d | None:
    """The 1 x 1 convolution that equals ``module``, or None when it does anything but choose channels.

    Args:
        module: Without parameters and buffers, so it runs on any values.
        input_shape, output_shape: ``[n, c, h, w]``.
    """
    stride = _stride(input_shape, output_shape)
    if stride is None:
        return None
    probe = torch.randn(2, *input_shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.inference_mode():
        output = module(probe)
    conv = nn.Conv2d(input_shape[1], output_shape[1], 1, stride=stride, bias=False)
    with torch.no_grad():
        conv.weight.copy_(_selection(probe[:, :, :: stride[0], :: stride[1]], output))
        same = torch.equal(conv.double()(probe), output)
    return conv.float().eval() if same else None


def _selection(chosen: Tensor, output: Tensor) -> Tensor:
    """``[out, in, 1, 1]``: 1 where an output channel is that input channel, value for value."""
    equal = (output[:, :, None] == chosen[:, None]).flatten(3).all(3).all(0)
    return equal[:, :, None, None].double()


def _stride(input_shape: torch.Size, output_shape: torch.Size) -> tuple[int, int] | None:
    if len(input_shape) != 4 or len(output_shape) != 4 or output_shape[1] <= input_shape[1]:
        return None
    strides = -(-input_shape[2] // output_shape[2]), -(-input_shape[3] // output_shape[3])
    fits = all(-(-g // s) == m for g, s, m in zip(input_shape[2:], strides, output_shape[2:], strict=True))
    return strides if fits else None


def widening_modules(model: TorchModel) -> Shapes:
    """Input and output shapes of the outermost parameter-free modules that give more channels than they take."""
    shapes: Shapes = {}

    def note(name: str, _: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if len(inputs) == 1 and isinstance(inputs[0], Tensor) and isinstance(output, Tensor) and output.dim() == 4:
            input_shape = inputs[0].shape
            if input_shape[1:] != output.shape[1:] and output.shape[1] > input_shape[1]:
                shapes[name] = (input_shape, output.shape)

    named = [(name, module) for name, module in model.module.named_modules() if name]
    with watched_modules([(n, m) for n, m in named if not [*m.parameters(), *m.buffers()]], note):
        model.predict(model.example())
    return {name: s for name, s in shapes.items() if not any(name.startswith(f"{outer}.") for outer in shapes)}
