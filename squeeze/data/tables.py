"""Images in tables: files that the ``datasets`` library reads (extra ``datasets``)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from squeeze.data.images import LazyPixels, Pixels
from squeeze.data.sources import DataSource
from squeeze.errors import DataError, MissingExtra, did_you_mean


class DatasetsData(DataSource):
    """Files that the ``datasets`` library reads: parquet, csv, json, arrow; a column of images, one of labels."""

    kind = "datasets"

    datasets: str  # a file, or a folder of files of one kind
    image: str = "image"
    label: str | None = "label"

    def where(self) -> str:
        return self.datasets

    def has_labels(self) -> bool:
        return self.label is not None

    def pixels(self, root: Path) -> Pixels:
        table = _read_table(root / self.datasets)
        for column in filter(None, (self.image, self.label)):
            if column not in table.column_names:
                raise DataError(f"{self.datasets}: no column '{column}'{did_you_mean(column, table.column_names)}")
        labels = np.full(len(table), -1) if self.label is None else np.asarray(table[self.label], dtype=np.int64)
        return LazyPixels(lambda index: _column_pixels(table[index][self.image], self.datasets), labels)


SUFFIX_TO_READER = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json", ".arrow": "arrow"}


def _read_table(path: Path) -> Any:
    try:
        import datasets
    except ImportError:
        raise MissingExtra(
            "data source 'datasets' needs the extra 'datasets': pip install 'squeeze[datasets]'"
        ) from None
    files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIX_TO_READER) if path.is_dir() else [path]
    kinds = {SUFFIX_TO_READER.get(file.suffix) for file in files}
    if len(kinds) != 1 or None in kinds:
        raise DataError(f"{path}: files of one kind among {', '.join(SUFFIX_TO_READER)} are read")
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(kinds.pop(), data_files=[str(file) for file in files], split="train")
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise DataError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None


def _column_pixels(value: Any, where: str) -> np.ndarray:
    """Pixels of one cell: an image, encoded bytes, or nested lists of numbers."""
    if isinstance(value, dict) and value.get("bytes"):
        value = Image.open(io.BytesIO(value["bytes"]))
    if isinstance(value, Image.Image):
        return np.asarray(value if value.mode in ("L", "RGB") else value.convert("RGB"))
    pixels = np.asarray(value)
    if pixels.ndim not in (2, 3):
        raise DataError(f"{where}: an image cell is {type(value).__name__}; an image or [h, w(, c)] numbers would do")
    return pixels.astype(np.uint8) if pixels.dtype.kind in "iu" else pixels
