"""From raw pixels to a model's input: resize, centre crop, scale, normalize; as JSON the steps go into packages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

from squeeze.errors import DataError

Side = PositiveInt | tuple[PositiveInt, PositiveInt]


class Normalize(BaseModel):
    """``(x - mean) / std`` per channel, after scaling."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: tuple[float, ...]
    std: tuple[PositiveFloat, ...]


class Preprocess(BaseModel):
    """Steps in their order; absent ones are left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    resize: Side | None = None  # one number: the shorter side; two: height and width
    crop: Side | None = None  # centre crop; two numbers: height and width
    channels: PositiveInt | None = None  # 1 (grey) or 3 (RGB); None: as they come
    scale: PositiveFloat = 1 / 255
    normalize: Normalize | None = None

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """``[h, w]`` or ``[h, w, c]`` to ``[c, h, w]`` float32."""
        if self.resize or self.crop or self.channels:
            pixels = self._as_image(pixels)
        image = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        result = image.astype(np.float32) * np.float32(self.scale)
        if self.normalize:
            mean, std = (np.asarray(v, np.float32).reshape(-1, 1, 1) for v in (self.normalize.mean, self.normalize.std))
            if len(mean) not in (1, len(result)):
                raise DataError(f"normalize has {len(mean)} channels; the images have {len(result)}")
            result = (result - mean) / std
        return np.ascontiguousarray(result, dtype=np.float32)

    def _as_image(self, pixels: np.ndarray) -> np.ndarray:
        if pixels.dtype != np.uint8:
            raise DataError(f"resize, crop and channels need uint8 pixels; these are {pixels.dtype}")
        image = Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
        if self.channels:
            image = image.convert("L" if self.channels == 1 else "RGB")
        if self.resize:
            image = image.resize(_resized(image.size, self.resize), Image.Resampling.BILINEAR)
        if self.crop:
            image = _centre(image, *((self.crop, self.crop) if isinstance(self.crop, int) else self.crop))
        return np.asarray(image)

    @classmethod
    def from_processor(cls, folder: Path) -> Self:
        """Read a Hugging Face ``preprocessor_config.json``."""
        file = folder / "preprocessor_config.json"
        try:
            config = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise DataError(f"{file}: no image processor can be read here ({error})") from None
        values: dict[str, Any] = {"channels": 3}
        if config.get("do_resize", True) and (size := config.get("size")):
            values["resize"] = _side(size)
        if config.get("do_center_crop", False) and (size := config.get("crop_size")):
            values["crop"] = _side(size)
        values["scale"] = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
        if config.get("do_normalize", True) and "image_mean" in config:
            values["normalize"] = {"mean": config["image_mean"], "std": config["image_std"]}
        return cls(**values)


def _side(size: int | dict[str, int]) -> Side:
    if isinstance(size, int):
        return size
    return size["shortest_edge"] if "shortest_edge" in size else (size["height"], size["width"])


def _resized(size: tuple[int, int], side: Side) -> tuple[int, int]:
    """``(width, height)`` after a resize; one number keeps the proportions."""
    if not isinstance(side, int):
        return side[1], side[0]
    width, height = size
    short = min(width, height)
    return round(width * side / short), round(height * side / short)


def _centre(image: Image.Image, height: int, width: int) -> Image.Image:
    if image.width < width or image.height < height:
        raise DataError(
            f"crop {height} x {width} is larger than an image of {image.height} x {image.width}; resize first"
        )
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
