"""From raw pixels to a model's input: resize, crop, scale, normalize; as JSON the steps go into packages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import numpy as np
from annotated_types import Gt, Le
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, ValidationError, model_validator

from squeeze.errors import DataError, first_line
from squeeze.formats.regular import read_json

Pixel = Annotated[int, Gt(0), Le(8192)]  # a typing error must not allocate a terabyte
MOST_PIXELS = 2**27
Interpolation = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]  # in the order of PIL's numbers
Side = Pixel | tuple[Pixel, Pixel]
PLACES = {  # of a crop, across and down
    "centre": (0.5, 0.5),
    "upper left": (0.0, 0.0),
    "upper right": (1.0, 0.0),
    "lower left": (0.0, 1.0),
    "lower right": (1.0, 1.0),
}


class Normalize(BaseModel):
    """``(x - mean) / std`` per channel, after scaling."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    mean: tuple[float, ...]
    """Subtracted, one per channel."""
    std: tuple[PositiveFloat, ...]
    """Divided by, one per channel."""

    @model_validator(mode="after")
    def _same_channels(self) -> Self:
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} stds; one of each per channel would do")
        return self


class Preprocess(BaseModel):
    """Steps in their order; absent ones are left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    resize: Side | None = None  # one number: the shorter side; two: height and width
    interpolation: Interpolation = "bilinear"  # of the resize: what the model was trained with
    crop: Side | None = None  # centre crop; two numbers: height and width
    channels: PositiveInt | None = None  # 1 (grey) or 3 (RGB); None: as they come
    scale: PositiveFloat = 1 / 255
    normalize: Normalize | None = None

    def __call__(self, pixels: np.ndarray, view: int = 0) -> np.ndarray:
        """``[h, w]`` or ``[h, w, c]`` to ``[c, h, w]`` float32.

        Args:
            view: Which crop: of 0 to 4 the one at ``PLACES``, of 5 to 9 the same ones mirrored.
        """
        if self.resize or self.crop or self.channels:
            pixels = self._as_image(pixels, view)
        image = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        result = image.astype(np.float32) * np.float32(self.scale)
        if self.normalize:
            mean, std = (np.asarray(v, np.float32).reshape(-1, 1, 1) for v in (self.normalize.mean, self.normalize.std))
            if len(mean) not in (1, len(result)):
                raise DataError(f"normalize has {len(mean)} channels; the images have {len(result)}")
            result = (result - mean) / std
        return np.ascontiguousarray(result, dtype=np.float32)

    def _as_image(self, pixels: np.ndarray, view: int) -> np.ndarray:
        if pixels.dtype != np.uint8:
            raise DataError(f"resize, crop and channels need uint8 pixels; these are {pixels.dtype}")
        if pixels.ndim == 3 and pixels.shape[2] not in (1, 3):
            raise DataError(f"resize, crop and channels need [h, w], [h, w, 1] or [h, w, 3]; this is {[*pixels.shape]}")
        image = Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
        if self.channels:
            image = image.convert("L" if self.channels == 1 else "RGB")
        if self.resize:
            width, height = _resized(image.size, self.resize)
            if width * height > MOST_PIXELS:  # a strip of one pixel's height must not become a picture of terabytes
                raise DataError(f"resize would make {height} x {width} pixels; two numbers, [height, width], would do")
            image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        if self.crop:
            size = (self.crop, self.crop) if isinstance(self.crop, int) else self.crop
            image = _crop(image, *size, [*PLACES.values()][view % len(PLACES)])
        if view >= len(PLACES):
            image = ImageOps.mirror(image)
        return np.asarray(image)

    @classmethod
    def from_processor(cls, folder: Path) -> Self:
        """Read a Hugging Face ``preprocessor_config.json``."""
        file = folder / "preprocessor_config.json"
        if not file.exists():
            raise DataError(f"{file}: no image processor here")
        try:
            return cls.model_validate(_processor_steps(read_json(file, DataError)))
        except ValidationError as error:
            detail = error.errors()[0]
            where = ".".join(map(str, detail["loc"]))
            raise DataError(f"{file}: not an image processor that can be read ({where}: {detail['msg']})") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{file}: not an image processor that can be read ({first_line(error)})") from None


def _processor_steps(config: dict[str, Any]) -> dict[str, Any]:
    """The options of :class:`Preprocess` that a Hugging Face image processor stands for."""
    values: dict[str, Any] = {"channels": 3}
    if config.get("do_resize", True) and (size := config.get("size")):
        values["resize"] = _side(size)
    if (number := config.get("resample")) is not None:
        values["interpolation"] = get_args(Interpolation)[number] if number in range(6) else number
    if config.get("do_center_crop", False) and (size := config.get("crop_size")):
        values["crop"] = _side(size)
    values["scale"] = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    if config.get("do_normalize", True) and "image_mean" in config:
        values["normalize"] = {"mean": config["image_mean"], "std": config["image_std"]}
    return values


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


def _crop(image: Image.Image, height: int, width: int, place: tuple[float, float]) -> Image.Image:
    if image.width < width or image.height < height:
        raise DataError(
            f"crop {height} x {width} is larger than an image of {image.height} x {image.width}; resize first"
        )
    left, top = int((image.width - width) * place[0]), int((image.height - height) * place[1])
    return image.crop((left, top, left + width, top + height))
