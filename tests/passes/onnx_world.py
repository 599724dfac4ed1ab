"""A small network, its export and data to calibrate on, shared by the tests of the ONNX passes."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from squeeze.data.base import Dataset, Example
from squeeze.models.base import InputSpec
from squeeze.models.onnx_model import OnnxModel
from squeeze.models.source import FactorySource
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context
from squeeze.passes.export.export_onnx import ExportOnnx


class Net(nn.Module):
    """Convolution, depthwise, residual, mean over space, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.point = nn.Conv2d(16, 16, 1)
        self.fc = nn.Linear(16, 7)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.stem(image)))
        x = torch.relu(x + self.point(nn.functional.relu6(self.depthwise(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def seeded(kind: type[nn.Module]) -> nn.Module:
    """A network whose norm ``bn`` of 16 channels has statistics as if it had been trained."""
    torch.manual_seed(0)
    module: Any = kind()
    module.bn.running_mean += torch.randn(16) / 4
    module.bn.running_var *= torch.rand(16) + 0.5
    return module


def net() -> nn.Module:
    return seeded(Net)


def torch_model() -> TorchModel:
    return TorchModel(net(), FactorySource("onnx_world:net"), (InputSpec("image", (3, 12, 12)),))


@cache
def exported() -> OnnxModel:
    result = ExportOnnx().run(torch_model(), Context())
    assert isinstance(result, OnnxModel)
    return result


class Noise(Dataset):
    """Seeded images of uneven brightness."""

    name = "noise"

    def __init__(self, count: int = 24, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.images = random.normal(size=(count, 3, 12, 12)) * random.uniform(0.3, 2, size=(count, 1, 1, 1))

    def __len__(self) -> int:
        return len(self.images)

    def label(self, index: int) -> int:
        return index % 7

    def example(self, index: int) -> Example:
        return Example(self.images[index].astype(np.float32), self.label(index))

    def fingerprint(self, index: int) -> bytes:
        return bytes(self.images[index].tobytes())


def context(count: int = 24) -> Context:
    return Context(threads=1, calibration_data=Noise(count))


def error(model: OnnxModel) -> float:
    """Share of the logits' power that is error, on images that nothing was calibrated on."""
    batch = Noise(32, seed=1).batch(np.arange(32))
    expected, got = exported().predict(batch), model.predict(batch)
    return float((expected - got).square().sum() / expected.square().sum())
