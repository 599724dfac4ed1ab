"""Image datasets: pixels that something can read by number, and how they become a model's input."""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from squeeze.data.base import Dataset, Example
from squeeze.data.preprocess import Preprocess
from squeeze.data.similar_images import Sketch, sketch
from squeeze.errors import DataError, first_line
from squeeze.formats.regular import require_regular

RESIDENT_BYTES = 512 * 2**20  # preprocessed images up to this size stay in memory


class Pixels(ABC):
    """Raw images by number, before any preprocessing."""

    labels: np.ndarray  # [n] int64, -1 where there is none
    classes: list[str] | None = None

    @abstractmethod
    def read(self, index: int) -> np.ndarray:
        """``[h, w]`` or ``[h, w, c]``."""

    def image_name(self, index: int) -> str:
        """What messages call an image."""
        return f"example {index}"


class ArrayPixels(Pixels):
    """Images in one array ``[n, h, w]`` or ``[n, h, w, c]``."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels

    def read(self, index: int) -> np.ndarray:
        pixels: np.ndarray = self.images[index]
        return pixels


class FilePixels(Pixels):
    """Images in files, decoded when they are asked for."""

    def __init__(self, files: list[Path], labels: np.ndarray, classes: list[str] | None = None) -> None:
        self.files, self.labels, self.classes = files, labels, classes

    def read(self, index: int) -> np.ndarray:
        require_regular(self.files[index], DataError)
        try:
            with bounded_decoding(), Image.open(self.files[index]) as image:
                return image_pixels(image)
        except DataError as error:
            raise DataError(f"{self.files[index]}: {error}") from None
        except Exception as error:  # each of Pillow's decoders fails in its own way at damaged bytes
            raise DataError(f"{self.files[index]}: not a whole image ({first_line(error)})") from None

    def image_name(self, index: int) -> str:
        return str(Path(*self.files[index].parts[-2:]))


@contextmanager
def bounded_decoding() -> Iterator[None]:
    """Pillow's warning of an image of more than 89 million pixels becomes an error, before any pixel is decoded."""
    with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
        yield


def image_pixels(image: Image.Image) -> np.ndarray:
    """``[h, w]`` of a grey image, ``[h, w, 3]`` of any other, uint8."""
    if image.mode.startswith(("I", "F")):
        raise DataError(f"pixels of more than 8 bits (mode {image.mode}); 8-bit images, or npz and scale: would do")
    return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))


class LazyPixels(Pixels):
    """Images that a callable reads by number."""

    def __init__(self, read: Callable[[int], np.ndarray], labels: np.ndarray) -> None:
        self._read, self.labels = read, labels

    def read(self, index: int) -> np.ndarray:
        return self._read(index)


class ImageDataset(Dataset):
    """Some of the images of a source (``indices``, in order), preprocessed."""

    def __init__(self, name: str, pixels: Pixels, indices: np.ndarray, preprocess: Preprocess) -> None:
        self.name, self.pixels, self.indices, self.preprocess = name, pixels, indices, preprocess
        self.classes = pixels.classes
        self.example = lru_cache(maxsize=self._resident())(self.example)  # type: ignore[method-assign]

    def __len__(self) -> int:
        return len(self.indices)

    def example(self, index: int) -> Example:  # replaced by its cached self in __init__
        return self.prepared(index, self.read(index))

    def label(self, index: int) -> int:
        return int(self.pixels.labels[int(self.indices[index])])

    def read(self, index: int) -> np.ndarray:
        """The raw pixels of one example."""
        return self.pixels.read(int(self.indices[index]))

    def prepared(self, index: int, pixels: np.ndarray, view: int = 0) -> Example:
        """An example of its raw pixels, seen as ``Preprocess`` numbers its views."""
        image = self.preprocess(pixels, view)
        if not np.isfinite(image).all():
            where = f"{self.name}: example {int(self.indices[index])}"
            raise DataError(f"{where} holds NaN or infinity; numbers are what a model takes")
        return Example(image, self.label(index))

    def _resident(self) -> int:
        """How many examples fit into memory: all of a small set, else none."""
        if not len(self.indices):
            return 0
        size_bytes = self.example(0).image.nbytes
        return len(self.indices) if size_bytes * len(self.indices) <= RESIDENT_BYTES else 0

    def example_name(self, index: int) -> str:
        return self.pixels.image_name(int(self.indices[index]))

    @cached_property
    def fingerprints(self) -> list[bytes]:
        return [fingerprint for fingerprint, _ in self._readings]

    @cached_property
    def sketches(self) -> list[Sketch] | None:
        return [sketched for _, sketched in self._readings]

    @cached_property
    def _readings(self) -> list[tuple[bytes, Sketch]]:
        """Sketch and fingerprint from one decoding, which is the expensive part."""
        pixels = (self.pixels.read(int(index)) for index in self.indices)
        return [(_fingerprint(image), sketch(image)) for image in pixels]

    def fingerprint(self, index: int) -> bytes:
        return _fingerprint(self.read(index))

    def preprocessing(self) -> dict[str, object]:
        return self.preprocess.model_dump(mode="json")


def _fingerprint(pixels: np.ndarray) -> bytes:
    return hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).digest()
