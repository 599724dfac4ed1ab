"""How a picture becomes a model's input, as numbers that an app computes with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from squeeze.formats.tensor_spec import TensorSpec


@dataclass(frozen=True)
class Picture:
    """Steps in their order; the input is ``[1, channels, height, width]``.

    Args:
        short: Pixels of the shorter side after the resize; 0: as they come.
        resize: ``(height, width)`` after the resize, where both are told.
        factors, offsets: For each channel: ``value = pixel * factor + offset``, pixels from 0 to 255.
    """

    channels: int
    height: int
    width: int
    short: int
    resize: tuple[int, int] | None
    factors: tuple[float, ...]
    offsets: tuple[float, ...]


def picture_of(spec: TensorSpec, steps: Mapping[str, Any]) -> Picture | None:
    """How; None where the input is no picture, or nothing says how one is prepared."""
    sizes = [size for size in spec.shape[1:] if isinstance(size, int)]
    if not steps or "tokenizer" in steps or spec.dtype != "float32" or len(spec.shape) != 4 or len(sizes) != 3:
        return None
    channels, height, width = sizes
    if channels not in (1, 3):
        return None
    resize, scale, normalize = steps.get("resize"), float(steps.get("scale") or 1 / 255), steps.get("normalize")
    mean, std = (normalize["mean"], normalize["std"]) if normalize else ([0.0], [1.0])
    means, stds = (list(values) * channels if len(values) == 1 else list(values) for values in (mean, std))
    return Picture(
        channels,
        height,
        width,
        resize if isinstance(resize, int) else 0,
        (resize[0], resize[1]) if isinstance(resize, (list, tuple)) else None,
        tuple(scale / one for one in stds),
        tuple(-middle / one for middle, one in zip(means, stds, strict=True)),
    )
