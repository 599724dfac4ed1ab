"""Images in tables: files that the ``datasets`` library reads (extra ``datasets``)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from squeeze.data.images import LazyPixels, Pixels, bounded_decoding, image_pixels
from squeeze.data.sources import ImageSource, whole_labels
from squeeze.errors import DataError, MissingExtra, did_you_mean, first_line
from squeeze.formats.regular import require_regular


class DatasetsData(ImageSource):
    """Files that the ``datasets`` library reads: parquet, csv, json, arrow; a column of images, one of labels."""

    kind = "datasets"

    datasets: str
    """A file, or a folder of files of one kind."""
    image: str = "image"
    """The column of images."""
    label: str | None = "label"
    """The column of labels; null: the data has none."""

    def has_labels(self) -> bool:
        return self.label is not None

    def pixels(self, root: Path) -> Pixels:
        table = _read_table(root / self.datasets)
        for column in filter(None, (self.image, self.label)):
            if column not in table.column_names:
                raise DataError(f"{self.datasets}: no column '{column}'{did_you_mean(column, table.column_names)}")
        return LazyPixels(lambda index: _column_pixels(self._cell(table, index), self.datasets), self._labels(table))

    def faults(self, root: Path) -> Iterator[str]:
        if find_spec("datasets") is None:
            yield ABSENT
        yield from super().faults(root)

    def _cell(self, table: Any, index: int) -> Any:
        try:
            with bounded_decoding():
                return table[index][self.image]
        except Exception as error:  # the library decodes on access, and its decoders fail in their own ways
            raise DataError(f"{self.datasets}: row {index} cannot be read ({first_line(error)})") from None

    def _labels(self, table: Any) -> np.ndarray:
        if self.label is None:
            return np.full(len(table), -1)
        try:
            labels = np.array([-1 if value is None else value for value in table[self.label]])
        except (ValueError, OverflowError):  # lists of different lengths, numbers of any length
            raise DataError(f"{self.datasets}: column '{self.label}' holds no class numbers") from None
        return whole_labels(labels, len(table), f"{self.datasets}: column '{self.label}'")


ABSENT = "data source 'datasets' needs the extra 'datasets': pip install 'squeeze[datasets]'"
SUFFIX_TO_READER = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json", ".arrow": "arrow"}


def _read_table(path: Path) -> Any:
    try:
        import datasets
    except ImportError:
        raise MissingExtra(ABSENT) from None
    files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIX_TO_READER) if path.is_dir() else [path]
    for file in files:
        require_regular(file, DataError)
    kinds = {SUFFIX_TO_READER.get(file.suffix) for file in files}
    if len(kinds) != 1 or None in kinds:
        raise DataError(f"{path}: files of one kind among {', '.join(SUFFIX_TO_READER)} are read")
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(kinds.pop(), data_files=[str(file) for file in files], split="train")
    except Exception as error:  # the reader of each kind of file fails in its own way at damaged bytes
        raise DataError(f"{path}: cannot be read ({first_line(error.__cause__ or error)})") from None


def _column_pixels(value: Any, where: str) -> np.ndarray:
    """Pixels of one cell: an image, encoded bytes, or nested lists of numbers."""
    encoded = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(encoded, bytes):
        value = _decoded(encoded, where)
    if isinstance(value, Image.Image):
        return image_pixels(value)
    pixels = _numbers(value)
    if pixels.ndim not in (2, 3) or pixels.dtype.kind not in "uif":
        raise DataError(f"{where}: an image cell is {type(value).__name__}; an image or [h, w(, c)] numbers would do")
    return pixels.astype(np.uint8) if pixels.dtype.kind in "iu" else pixels


def _decoded(encoded: bytes, where: str) -> Image.Image:
    try:
        with bounded_decoding():
            image = Image.open(io.BytesIO(encoded))
            image.load()
    except Exception as error:  # each of Pillow's decoders fails in its own way at damaged bytes
        raise DataError(f"{where}: an image cell is not a whole image ({first_line(error)})") from None
    return image


def _numbers(value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError:  # rows of different lengths
        return np.asarray(None)
