"""A network with every kind of convolution that has a grid, for the tests of weight quantizers."""

from __future__ import annotations

import numpy as np
import torch
from onnx_world import Noise, seeded
from torch import Tensor, nn

from squeeze.models.base import InputSpec
from squeeze.models.source import FactorySource
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context

PER_CHANNEL = {"stem": {"group_size": None}, "depthwise": {"group_size": None}}  # 3 channels and 1 have no groups of 4


class Net(nn.Module):
    """Stem and norm, depthwise, grouped with a stride and holes, mean over space, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, padding_mode="reflect")
        self.grouped = nn.Conv2d(16, 16, 3, stride=2, padding=2, dilation=2, groups=2)
        self.fc = nn.Linear(16, 7)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.stem(image)))
        x = torch.relu(self.grouped(torch.relu(self.depthwise(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def net() -> nn.Module:
    return seeded(Net)


def torch_model() -> TorchModel:
    return TorchModel(net(), FactorySource("grid_world:net"), (InputSpec("image", (3, 12, 12)),))


def transposed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 4, 2), nn.Flatten(), nn.Linear(4 * 11 * 11, 7))


def transposed_model() -> TorchModel:
    return TorchModel(transposed(), FactorySource("grid_world:transposed"), (InputSpec("image", (3, 12, 12)),))


def logits(model: TorchModel) -> Tensor:
    """On images that nothing was calibrated on."""
    return model.predict(Noise(32, seed=1).batch(np.arange(32)))


def context(count: int = 96, **more: object) -> Context:
    return Context(threads=1, calibration_data=Noise(count), **more)  # type: ignore[arg-type]
