"""Zero-padded shortcuts are found by measurement and become the convolutions that they are."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from squeeze.models.base import InputSpec
from squeeze.models.source import FactorySource
from squeeze.models.torch_model import TorchModel
from squeeze.passes.prune.shortcuts import convolve_shortcuts, selection_as_convolution


def resnet20() -> TorchModel:
    torch.manual_seed(0)
    source = FactorySource("cifar_resnet:resnet20")
    return TorchModel(source.build(), source, (InputSpec("image", (3, 32, 32)),))


class Pad(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 3, 5))


class Doubled(Pad):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Averaged(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(functional.avg_pool2d(x, 2), (0, 0, 0, 0, 3, 5))


class Clipped(Pad):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def converted(module: nn.Module, side: int = 8) -> nn.Conv2d | None:
    image = torch.zeros(1, 8, side, side)
    return selection_as_convolution(module, image.shape, module(image).shape)


def test_zero_padded_shortcuts_become_convolutions_and_the_logits_stay_the_same():
    model = resnet20()
    batch = model.example(4)
    before = model.predict(batch)
    assert convolve_shortcuts(model) == ["layer2.0.shortcut", "layer3.0.shortcut"]
    assert torch.equal(model.predict(batch), before)
    assert type(model.module.get_submodule("layer2.0.shortcut")) is nn.Conv2d


def test_it_is_known_without_weights_too():
    source = FactorySource("cifar_resnet:resnet20")
    outline = TorchModel.build(source, None, (InputSpec("image", (3, 32, 32)),))
    assert convolve_shortcuts(outline) == ["layer2.0.shortcut", "layer3.0.shortcut"]


@pytest.mark.parametrize("side", [8, 7], ids=["even", "odd"])
def test_the_convolution_holds_one_for_each_channel_that_is_passed_on(side):
    conv = converted(Pad(), side)
    assert conv is not None
    assert conv.stride == (2, 2)
    assert conv.weight.sum() == 8
    assert torch.equal(conv.weight[3:11, :, 0, 0], torch.eye(8))


@pytest.mark.parametrize("kind", [Doubled, Averaged, Clipped])
def test_a_module_that_does_more_than_choose_channels_is_left_alone(kind):
    assert converted(kind()) is None
