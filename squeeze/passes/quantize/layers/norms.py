"""Batch norms folded into the convolutions before them, so that what is rounded is what runtimes multiply with."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from squeeze.blocks.hooks import watched_modules
from squeeze.models.torch_model import TorchModel

SAME = 1e-4  # relative to the largest logit: float32 sums in another order


def fold_norms(model: TorchModel) -> list[str]:
    """Fold every batch norm whose input is a convolution's output; gives the names of the norms.

    Found by running the network, not from names. One without which the network computes something else (the
    convolution's output is read elsewhere, too) stays.
    """
    folded, module, example = [], model.module, model.example(2)
    for norm, convolution in _pairs(model):
        bn, conv, before = module.get_submodule(norm), module.get_submodule(convolution), model.predict(example)
        weight, bias = conv.weight, conv.bias
        _fold(module, norm, convolution)
        change = (model.predict(example) - before).abs().max() / before.abs().max().clamp_min(1e-6)
        if change <= SAME:
            folded.append(norm)
        else:
            conv.weight, conv.bias = weight, bias
            module.set_submodule(norm, bn)
    return folded


def _pairs(model: TorchModel) -> list[tuple[str, str]]:
    """Norm and convolution, where the one is given the very tensor that the other gave; each runs once."""
    outputs: list[tuple[Tensor, str]] = []
    pairs: list[tuple[str, str]] = []
    calls: list[str] = []

    def note(name: str, _: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append(name)
        pairs.extend((name, source) for tensor, source in outputs if args and tensor is args[0])
        outputs.append((output, name))

    module, kinds = model.module, (nn.Conv2d, nn.BatchNorm2d)
    with watched_modules([(name, m) for name, m in module.named_modules() if isinstance(m, kinds)], note):
        model.predict(model.example())
    return [pair for pair in pairs if _fits(module, *pair) and all(calls.count(name) == 1 for name in pair)]


def _fits(module: nn.Module, norm: str, convolution: str) -> bool:
    """A norm with statistics of its own behind a convolution that can be stored with another bias."""
    bn, conv = module.get_submodule(norm), module.get_submodule(convolution)
    return isinstance(bn, nn.BatchNorm2d) and bn.running_mean is not None and type(conv) is nn.Conv2d


def _fold(module: nn.Module, norm: str, convolution: str) -> None:
    bn, conv = module.get_submodule(norm), module.get_submodule(convolution)
    assert isinstance(bn, nn.BatchNorm2d)
    assert isinstance(conv, nn.Conv2d)
    assert bn.running_mean is not None
    assert bn.running_var is not None
    with torch.no_grad():
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
        )
    module.set_submodule(norm, nn.Identity())
