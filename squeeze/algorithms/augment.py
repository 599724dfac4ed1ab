"""Augmentation: the same picture, seen a little differently each time. Images ``[n, c, h, w]``, seeded."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional


def flip(images: Tensor, generator: Generator) -> Tensor:
    """Mirror each image left to right with probability one half."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def crop(images: Tensor, generator: Generator) -> Tensor:
    """Move each image by up to an eighth of its size in either direction; zeros come in from the border."""
    n, _, h, w = images.shape
    down, across = h // 8, w // 8
    padded = functional.pad(images, (across, across, down, down))
    tops = torch.randint(0, 2 * down + 1, (n,), generator=generator)
    lefts = torch.randint(0, 2 * across + 1, (n,), generator=generator)
    rows = tops[:, None] + torch.arange(h)
    columns = lefts[:, None] + torch.arange(w)
    picked = torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]
    return padded.permute(0, 2, 3, 1)[picked].permute(0, 3, 1, 2).contiguous()
