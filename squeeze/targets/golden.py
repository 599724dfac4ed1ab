"""The golden input and output: what a package must compute wherever it is opened."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np

from squeeze.errors import VerifyError, first_line
from squeeze.targets.archive import zip_bytes

NUMBERS = "biuf"  # kinds of numpy types: bool, int, unsigned, float
Arrays = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Golden:
    """Arrays by the model's own input and output names."""

    inputs: Arrays
    outputs: Arrays

    def npz(self) -> bytes:
        """The same arrays give the same bytes, and nothing in them is compressed."""
        arrays = {f"input.{name}": array for name, array in self.inputs.items()}
        arrays |= {f"output.{name}": array for name, array in self.outputs.items()}
        return npz_bytes(arrays)

    @classmethod
    def from_npz(cls, data: bytes, where: str) -> Golden:
        """Read what ``npz`` wrote; raises ``VerifyError`` where it is a pickle, compressed or endless."""
        try:
            arrays = read_npz(data)
        except Exception as error:  # zipfile and numpy's header parser raise whatever hostile bytes lead them to
            why = f"no readable golden arrays ({first_line(error)})"
            raise VerifyError(f"{where}: {why}; make the package again") from None
        inputs = {name.removeprefix("input."): array for name, array in arrays.items() if name.startswith("input.")}
        outputs = {name.removeprefix("output."): array for name, array in arrays.items() if name.startswith("output.")}
        if not inputs or not outputs:
            raise VerifyError(f"{where}: holds {len(inputs)} inputs and {len(outputs)} outputs; one of each is needed")
        return cls(inputs, outputs)


def largest_difference(expected: Arrays, actual: Arrays) -> float:
    """Largest absolute difference as a share of the largest expected value; infinite where shapes or NaNs differ."""
    return max(_difference(expected[name], actual[name]) for name in expected)


def largest_shift(expected: Arrays, actual: Arrays) -> float:
    """Largest absolute difference, in the outputs' own unit; the shapes are equal."""
    gaps = (np.abs(expected[name].astype(np.float64) - actual[name].astype(np.float64)) for name in expected)
    return max(float(np.nan_to_num(gap).max(initial=0.0)) for gap in gaps)


def _difference(expected: np.ndarray[Any, Any], actual: np.ndarray[Any, Any]) -> float:
    if expected.shape != actual.shape:
        return float("inf")
    if expected.size == 0 or np.array_equal(expected, actual, equal_nan=expected.dtype.kind == "f"):
        return 0.0
    gap = np.abs(expected.astype(np.float64) - actual.astype(np.float64))
    share = float(gap.max() / max(float(np.abs(expected).max()), 1e-12))
    return share if np.isfinite(share) else float("inf")


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    stream = BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return stream.getvalue()


def npz_bytes(arrays: Arrays) -> bytes:
    """An .npz file in memory, nothing in it compressed; the same arrays give the same bytes."""
    return zip_bytes({f"{name}.npy": _npy(array) for name, array in arrays.items()})


def read_npz(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """Arrays of numbers by name; each as large as the file says, no more.

    Raises:
        ValueError: a compressed entry, a pickle, an array larger than its bytes.
        zipfile.BadZipFile: no zip.
    """
    arrays = {}
    with zipfile.ZipFile(BytesIO(data)) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > len(data):
                raise ValueError(f"{entry.filename} is compressed")
            arrays[entry.filename.removesuffix(".npy")] = _array(archive.read(entry), entry.filename)
    return arrays


def _array(data: bytes, name: str) -> np.ndarray[Any, Any]:
    stream = BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"{name} has version {version} of the format; (1, 0) is read")
    shape, columns_first, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.kind not in NUMBERS or columns_first:
        raise ValueError(f"{name} holds {dtype}, not numbers in rows")
    if math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise ValueError(f"{name} claims the shape {shape} and has {len(data) - stream.tell()} bytes")
    return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape).copy()
