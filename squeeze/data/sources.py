"""Where examples come from: a plan's ``data`` entries. Each source is its options; ``open`` reads what they name.

Every source can ``skip`` and take ``samples`` of its examples after a shuffle that ``seed`` decides, so two entries
with one seed can share a file without sharing an example.
"""

from __future__ import annotations

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from squeeze.data.images import ArrayPixels, FilePixels, ImageDataset, Pixels
from squeeze.data.preprocess import Normalize, Preprocess, Side
from squeeze.errors import DataError, did_you_mean

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".ppm"}


class DataSource(BaseModel, ABC):
    """Options that every source of images understands."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]  # the key that names this source in a plan, whose value is the path or name

    samples: PositiveInt | None = None  # how many; None: all
    skip: NonNegativeInt = 0  # leave out that many first
    seed: int = 0  # decides which ones
    resize: Side | None = None
    crop: Side | None = None
    channels: Literal[1, 3] | None = None
    scale: float | None = None
    normalize: Normalize | None = None
    processor: str | None = None  # a Hugging Face folder whose image processor says all of the above

    @abstractmethod
    def pixels(self, root: Path) -> Pixels:
        """Raw images and their labels; paths are relative to ``root``."""

    @abstractmethod
    def where(self) -> str:
        """The path or name, for messages."""

    def has_labels(self) -> bool:
        """False where the options say that there are none."""
        return True

    def default_scale(self) -> float:
        """What maps this source's pixels to 0..1."""
        return 1 / 255

    def open(self, root: Path) -> ImageDataset:
        """Read what the options name."""
        pixels = self.pixels(root)
        indices = self._chosen(len(pixels.labels))
        return ImageDataset(f"{self.kind}:{Path(self.where()).name}", pixels, indices, self.preprocess(root))

    def faults(self, root: Path) -> Iterator[str]:
        """What is wrong with the options, without reading the data itself."""
        path = root / self.where()
        if not path.exists():
            yield f"{self.kind}: {path} does not exist"

    def preprocess(self, root: Path) -> Preprocess:
        """The steps, from the options or from the image processor they name."""
        if self.processor:
            return Preprocess.from_processor(root / self.processor)
        options = {name: getattr(self, name) for name in ("resize", "crop", "channels", "normalize")}
        return Preprocess(**options, scale=self.scale or self.default_scale())

    def _chosen(self, available: int) -> np.ndarray:
        if self.samples is None and not self.skip:
            return np.arange(available)
        wanted = self.skip + (self.samples or 1)
        if wanted > available:
            raise DataError(
                f"{self.where()}: {self.kind} asks for {wanted} examples (skip + samples); it has {available}"
            )
        shuffled = np.random.default_rng(self.seed).permutation(available)
        stop = None if self.samples is None else self.skip + self.samples
        return np.sort(shuffled[self.skip : stop])


class NpzData(DataSource):
    """Arrays in an ``.npz`` file: images ``[n, h, w]`` or ``[n, h, w, c]``, labels ``[n]``."""

    kind = "npz"

    npz: str
    images: str = "images"  # the array's name in the file
    labels: str | None = "labels"  # null: the data has no labels

    def where(self) -> str:
        return self.npz

    def has_labels(self) -> bool:
        return self.labels is not None

    def pixels(self, root: Path) -> Pixels:
        path = root / self.npz
        try:
            with np.load(path, allow_pickle=False) as arrays:
                images = self._array(arrays, self.images)
                labels = np.full(len(images), -1) if self.labels is None else self._array(arrays, self.labels)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: not a whole npz file ({error})") from None
        if images.ndim not in (3, 4) or len(images) != len(labels):
            raise DataError(f"{path}: images {list(images.shape)} and labels {list(labels.shape)} do not fit together")
        return ArrayPixels(images, labels.astype(np.int64).reshape(-1))

    def _array(self, arrays: Any, name: str) -> np.ndarray:
        if name not in arrays:
            raise DataError(f"{self.npz}: no array '{name}'{did_you_mean(name, arrays.files)}")
        array: np.ndarray = arrays[name]
        return array


class FolderData(DataSource):
    """Image files: a tree ``class/file.jpg``, or one folder whose file names begin with the class index."""

    kind = "folder"

    folder: str
    labels: Literal["folder", "filename", "none"] = "folder"

    def where(self) -> str:
        return self.folder

    def has_labels(self) -> bool:
        return self.labels != "none"

    def pixels(self, root: Path) -> Pixels:
        top = root / self.folder
        files = sorted(path for path in top.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise DataError(f"{top}: no image files here; {', '.join(sorted(IMAGE_SUFFIXES))} are read")
        if self.labels == "folder":
            return FilePixels(files, *self._classes(top, files))
        numbers = [-1 if self.labels == "none" else _leading_number(file) for file in files]
        return FilePixels(files, np.array(numbers, dtype=np.int64))

    def _classes(self, top: Path, files: list[Path]) -> tuple[np.ndarray, list[str]]:
        classes = sorted({file.relative_to(top).parts[0] for file in files if file.parent != top})
        if any(file.parent == top for file in files):
            raise DataError(f"{top}: images lie beside the class folders; labels: filename or none would read them")
        number = {name: index for index, name in enumerate(classes)}
        return np.array([number[file.relative_to(top).parts[0]] for file in files], dtype=np.int64), classes


class DigitsData(DataSource):
    """scikit-learn's 1,797 handwritten digits, 8 x 8, in three parts that share no image."""

    kind = "builtin"

    builtin: Literal["digits"]
    split: Literal["train", "calibrate", "evaluate"]

    def where(self) -> str:
        return self.builtin

    def default_scale(self) -> float:
        return 1 / 16

    def faults(self, root: Path) -> Iterator[str]:
        return iter(())

    def pixels(self, root: Path) -> Pixels:
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = np.random.default_rng(0).permutation(len(digits.target))
        parts = {"train": order[:1000], "calibrate": order[1000:1200], "evaluate": order[1200:]}
        chosen = np.sort(parts[self.split])
        return ArrayPixels(digits.images[chosen].astype(np.uint8), digits.target[chosen].astype(np.int64))


def _leading_number(file: Path) -> int:
    digits = file.name.split("_")[0].split("-")[0].split(".")[0]
    if not digits.isdigit():
        raise DataError(f"{file}: labels: filename wants names that begin with the class index, such as 0007_cat.jpg")
    return int(digits)
