"""A small residual network for 8 x 8 digits: what the demo compresses.

One residual stream per resolution, a strided projection between them, a linear classifier: the shapes that
coupled pruning and int8 have to get right, small enough to train in seconds.
"""

from __future__ import annotations

from torch import Tensor, nn


def conv(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    """Convolution without bias, then batch norm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs)
    )


class Residual(nn.Module):
    """Two convolutions around a shortcut, which is a strided 1 x 1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first, self.second = conv(inputs, outputs, stride), conv(outputs, outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv(inputs, outputs, stride, kernel=1)
        self.relu = nn.ReLU()

    def forward(self, image: Tensor) -> Tensor:
        hidden = self.second(self.relu(self.first(image)))
        result: Tensor = self.relu(hidden + self.shortcut(image))
        return result


class DigitsCnn(nn.Module):
    """``[n, 1, 8, 8]`` to ``[n, 10]``."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem, self.relu = conv(1, width), nn.ReLU()
        self.blocks = nn.Sequential(
            Residual(width, width), Residual(width, 2 * width, stride=2), Residual(2 * width, 2 * width)
        )
        self.pool, self.linear = nn.AvgPool2d(4), nn.Linear(2 * width, 10)

    def forward(self, image: Tensor) -> Tensor:
        features = self.blocks(self.relu(self.stem(image)))
        logits: Tensor = self.linear(self.pool(features).flatten(1))
        return logits


def digits_cnn() -> DigitsCnn:
    return DigitsCnn()
