"""Where examples come from: a plan's ``data`` entries. Each source is its options; ``open`` reads what they name.

Every source can ``skip`` and take ``samples`` of its examples after a shuffle that ``seed`` decides, so two entries
with one seed can share a file without sharing an example.
"""

from __future__ import annotations

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt

from squeeze.data.base import Dataset
from squeeze.data.images import ArrayPixels, FilePixels, ImageDataset, Pixels
from squeeze.data.npz import require_expandable
from squeeze.data.preprocess import Interpolation, Normalize, Preprocess, Side
from squeeze.data.tensors import TensorDataset, require_examples
from squeeze.data.views import Views
from squeeze.errors import DataError, did_you_mean, first_line
from squeeze.formats.regular import require_regular

MOST_CLASSES = 10**6
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".ppm"}


class DataSource(BaseModel, ABC):
    """Options that every source understands."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: ClassVar[str]  # the key that names this source in a plan, whose value is the path or name
    asks_original: ClassVar[bool] = False  # whether only a run, which lends the original, can open it

    samples: PositiveInt | None = None
    """How many examples; null: all."""
    skip: NonNegativeInt = 0
    """Examples left out first, in the order that `seed` gives: what another role takes."""
    seed: NonNegativeInt = 0
    """Decides which examples `skip` and `samples` choose."""

    def where(self) -> str:
        """The path or name, for messages."""
        return str(getattr(self, self.kind))

    @abstractmethod
    def open(self, root: Path, model: Path | None = None) -> Dataset:
        """Read what the options name; paths are relative to ``root``, ``model`` is the folder of the plan's model."""

    def has_labels(self) -> bool:
        """False where the options say that there are none."""
        return True

    def chooses(self) -> bool:
        """Whether another seed gives other examples."""
        return self.samples is not None

    def faults(self, root: Path) -> Iterator[str]:
        """What is wrong with the options, without reading the data itself."""
        path = root / self.where()
        try:
            require_regular(path, DataError)
        except DataError as error:
            yield f"{self.kind}: {error}"
            return
        if not path.exists():
            yield f"{self.kind}: {path} does not exist"

    def chosen(self, available: int) -> np.ndarray:
        """The numbers of the examples that ``skip``, ``samples`` and ``seed`` choose, in order."""
        if self.samples is None and not self.skip:
            return np.arange(available)
        needed = self.skip + (self.samples or 1)
        if needed > available:
            raise DataError(
                f"{self.where()}: {self.kind} asks for {needed} examples (skip + samples); it has {available}"
            )
        shuffled = np.random.default_rng(self.seed).permutation(available)
        stop = None if self.samples is None else self.skip + self.samples
        return np.sort(shuffled[self.skip : stop])


class ImageSource(DataSource):
    """Options that every source of images understands."""

    resize: Side | None = None
    """One number: pixels of the shorter side; two: height and width; null: as it is."""
    interpolation: Interpolation = "bilinear"
    """Of the resize; scores move where it is not what the model was trained with."""
    crop: Side | None = None
    """Pixels cut from the centre, after the resize: one number, or height and width."""
    views: Literal[1, 5, 10] = 1
    """Crops of each picture, each an example: 5: centre and corners; 10: these mirrored too. Intervals take a picture's
    views as one, and get narrower; packages cut the centre."""
    channels: Literal[1, 3] | None = None
    """1: grey; 3: RGB; null: as the pictures come."""
    scale: PositiveFloat | None = None
    """What each pixel is multiplied by; null: what maps 8-bit pixels to 0..1, and 1 for floating point."""
    normalize: Normalize | None = None
    """Mean and standard deviation per channel, after scaling."""
    processor: str | None = None
    """A Hugging Face folder whose image processor says all of the above."""

    @abstractmethod
    def pixels(self, root: Path) -> Pixels:
        """Raw images and their labels; paths are relative to ``root``."""

    def default_scale(self) -> float:
        """What maps this source's pixels to 0..1."""
        return 1 / 255

    def open(self, root: Path | str, model: Path | None = None) -> Dataset:
        root = Path(root)
        pixels = self.pixels(root)
        if not len(pixels.labels):
            raise DataError(f"{self.where()}: holds no examples")
        indices = self.chosen(len(pixels.labels))
        name = f"{self.kind}:{Path(self.where()).name}"
        preprocess = self.preprocess(root, pixels.read(int(indices[0])))
        if self.views > 1 and preprocess.crop is None:
            raise DataError(
                f"{self.where()}: views: {self.views} are crops, and nothing is cropped; crop: would say how"
            )
        data = ImageDataset(name, pixels, indices, preprocess)
        return Views(data, self.views) if self.views > 1 else data

    def preprocess(self, root: Path, pixels: np.ndarray) -> Preprocess:
        """The steps, from the options or from the image processor they name; ``pixels`` are an example's."""
        if self.processor:
            return Preprocess.from_processor(root / self.processor)
        options = {name: getattr(self, name) for name in ("resize", "interpolation", "crop", "channels", "normalize")}
        usual = 1.0 if pixels.dtype.kind == "f" else self.default_scale()
        return Preprocess(**options, scale=self.scale or usual)


class NpzData(ImageSource):
    """Arrays in an ``.npz`` file: images ``[n, h, w]`` or ``[n, h, w, c]``, or any inputs by name; labels ``[n]``."""

    kind = "npz"

    npz: str
    """The `.npz` file."""
    images: str = "images"
    """The images' name in the file."""
    labels: str | None = "labels"
    """The labels' name in the file; null: the data has none."""
    inputs: dict[str, str] | None = None
    """The model's inputs, each with its array's name in the file, fed as they are; null: the data is images."""

    def faults(self, root: Path) -> Iterator[str]:
        yield from super().faults(root)
        if self.inputs is None:
            return
        if not self.inputs:
            yield "npz: inputs names none; {the model's name: the array's name} would"
        if options := sorted(self.model_fields_set & (set(ImageSource.model_fields) - set(DataSource.model_fields))):
            yield f"npz: {', '.join(options)} would change images; arrays named by inputs are fed as they are"

    def open(self, root: Path | str, model: Path | None = None) -> Dataset:
        if self.inputs is None:
            return super().open(root, model)
        path = Path(root) / self.npz
        keys = [*self.inputs.values(), *([self.labels] if self.labels is not None else [])]
        arrays = _read_npz(path, keys)
        count = require_examples({name: arrays[name] for name in self.inputs.values()}, str(path))
        labels = np.full(count, -1)
        if self.labels is not None:
            labels = whole_labels(arrays[self.labels], count, f"{path}: '{self.labels}'")
        chosen = self.chosen(count)
        inputs = {name: arrays[key][chosen] for name, key in self.inputs.items()}
        return TensorDataset(f"{self.kind}:{path.name}", inputs, np.asarray(labels)[chosen])

    def has_labels(self) -> bool:
        return self.labels is not None

    def pixels(self, root: Path) -> Pixels:
        path = root / self.npz
        arrays = _read_npz(path, [name for name in (self.images, self.labels) if name is not None])
        images = arrays[self.images]
        if images.ndim not in (3, 4) or images.dtype.kind not in "uif":
            shape = f"{images.dtype} {list(images.shape)}"
            raise DataError(f"{path}: '{self.images}' is {shape}; numbers [n, h, w] or [n, h, w, c] would do")
        labels = np.full(len(images), -1) if self.labels is None else arrays[self.labels]
        return ArrayPixels(images, whole_labels(labels, len(images), f"{path}: '{self.labels}'"))


def _read_npz(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    require_regular(path, DataError)
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise DataError(f"{path}: not a whole npz file; np.savez writes one")
        require_expandable(path, names)
        with np.load(path, allow_pickle=False) as arrays:
            for name in names:
                if name not in arrays:
                    raise DataError(f"{path}: no array '{name}'{did_you_mean(name, arrays.files)}")
            return {name: arrays[name] for name in names}
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or first_line(error)})") from None
    except Exception as error:  # a damaged zip or array fails in zipfile, zlib or numpy, each in its own way
        raise DataError(f"{path}: not a whole npz file of plain arrays ({first_line(error)})") from None


def whole_labels(labels: np.ndarray, examples: int, where: str) -> np.ndarray:
    """``[n]`` int64, or ``DataError``: one whole number per example; -1 means none."""
    if labels.shape not in ((examples,), (examples, 1)):
        raise DataError(f"{where} is {list(labels.shape)} for {examples} examples; one label each would do")
    numbers = labels.reshape(-1)
    whole = numbers.dtype.kind in "uif" and bool((numbers == np.floor(numbers)).all())
    if not whole or bool((numbers < -1).any()) or bool((numbers > MOST_CLASSES).any()):
        raise DataError(f"{where} holds no class numbers; whole numbers from 0 on would do, or -1 for none")
    return numbers.astype(np.int64)


class FolderData(ImageSource):
    """Image files: a tree ``class/file.jpg``, or one folder whose file names begin with the class index."""

    kind = "folder"

    folder: str
    """The folder."""
    labels: Literal["folder", "filename", "none"] = "folder"
    """From the folder of each file, from the number that its name begins with, or none."""

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


class DigitsData(ImageSource):
    """scikit-learn's 1,797 handwritten digits, 8 x 8, in three parts that share no image."""

    kind = "builtin"

    builtin: Literal["digits"]
    """Which data: the digits."""
    split: Literal["train", "calibrate", "evaluate"]
    """Which of the three parts."""

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
    if not (digits.isdecimal() and len(digits) <= 9):
        raise DataError(f"{file}: labels: filename wants names that begin with the class index, such as 0007_cat.jpg")
    return int(digits)
