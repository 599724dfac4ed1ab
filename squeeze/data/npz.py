"""How large the arrays of an ``.npz`` become, read from its headers before anything is expanded."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np

from squeeze.errors import DataError

MOST_RATIO = 200  # largest expansion ratio; photographs reach 2, drawings 50
SMALL_BYTES = 2**28  # an array up to this size may have any expansion ratio


def require_expandable(path: Path, names: list[str]) -> None:
    """Raise ``DataError`` for an array that claims other than it holds, or expands out of proportion."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        for name in (name for name in names if name in entries):
            entry = entries[name]
            if entry.file_size > max(SMALL_BYTES, MOST_RATIO * entry.compress_size):
                sizes = f"{entry.file_size} bytes out of {entry.compress_size}"
                raise DataError(f"{path}: '{name}' would expand to {sizes}; an array as it is (np.savez) would do")
            with archive.open(entry) as stream:
                claimed = _claimed_bytes(stream)
            if claimed > entry.file_size:
                what = f"'{name}' claims {claimed} bytes and holds {entry.file_size}"
                raise DataError(f"{path}: not a whole npz file: {what}")


def _claimed_bytes(stream: object) -> int:
    version = np.lib.format.read_magic(stream)  # type: ignore[arg-type]
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)  # type: ignore[arg-type]
    if any(size < 0 for size in shape):
        raise ValueError(f"an array of shape {list(shape)}")
    return math.prod(shape) * dtype.itemsize
