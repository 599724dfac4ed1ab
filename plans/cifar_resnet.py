"""CIFAR-10 ResNets with zero-padded (option A) shortcuts: He et al. 2016, section 4.2, https://arxiv.org/abs/1512.03385.

A plain factory file such as a user has: a plan names it as ``model: {module: "cifar_resnet:resnet20", weights: ...}``.
Module names are those of the public checkpoints of akamaster/pytorch_resnet_cifar10.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class PadShortcut(nn.Module):
    """Every second pixel, and as many zero channels on either side as the wider stage needs."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.planes = planes

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.planes // 4, self.planes // 4))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around which the input is added."""

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Identity() if in_planes == planes and stride == 1 else PadShortcut(planes)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return functional.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """Three stages of 16, 32 and 64 planes; ``6 * blocks + 2`` layers."""

    def __init__(self, blocks: int, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = stage(16, 16, blocks, stride=1)
        self.layer2 = stage(16, 32, blocks, stride=2)
        self.layer3 = stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.linear(out.mean(dim=(2, 3)))


def stage(in_planes: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    """A block that changes the width and size, then blocks that keep both."""
    first = BasicBlock(in_planes, planes, stride)
    return nn.Sequential(first, *(BasicBlock(planes, planes, 1) for _ in range(blocks - 1)))


def resnet20() -> nn.Module:
    return ResNet(3)


def resnet32() -> nn.Module:
    return ResNet(5)
