"""Examples as arrays by the names of a model's inputs: for networks that take neither pictures nor text."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from squeeze.data.base import Dataset, Example
from squeeze.errors import DataError
from squeeze.models.base import Batch


class TensorDataset(Dataset):
    """Arrays ``[n, ...]`` of one length, fed as they are.

    Args:
        arrays: By the model's names of its inputs.
        labels: ``[n]``, -1 where there is none.
    """

    def __init__(self, name: str, arrays: Mapping[str, np.ndarray], labels: np.ndarray) -> None:
        self.name, self.arrays, self.labels = name, dict(arrays), labels

    def __len__(self) -> int:
        return len(self.labels)

    def example(self, index: int) -> Example:
        return Example(next(iter(self.arrays.values()))[index], self.label(index))

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def fingerprint(self, index: int) -> bytes:
        return b"".join(np.ascontiguousarray(array[index]).tobytes() for array in self.arrays.values())

    def preprocessing(self) -> dict[str, object]:
        return {"inputs": {name: str(array.dtype) for name, array in self.arrays.items()}}

    def batch(self, indices: np.ndarray) -> Batch:
        labels = torch.from_numpy(self.labels[indices])
        inputs = {name: torch.from_numpy(array[indices]) for name, array in self.arrays.items()}
        return Batch(inputs, None if (labels < 0).all() else labels)


def require_examples(arrays: Mapping[str, np.ndarray], where: str) -> int:
    """How many examples there are.

    Args:
        arrays: By their names in the file.

    Raises:
        DataError: an array of no numbers or without examples, or arrays of different lengths.
    """
    lengths: dict[str, int] = {}
    for name, array in arrays.items():
        if array.dtype.kind not in "uifb" or not array.ndim:
            raise DataError(f"{where}: '{name}' is {array.dtype} {list(array.shape)}; numbers [n, ...] would do")
        lengths[name] = len(array)
    first, count = next(iter(lengths.items()))
    if other := next((name for name, length in lengths.items() if length != count), None):
        raise DataError(f"{where}: '{first}' has {count} examples, '{other}' {lengths[other]}; as many would do")
    if not count:
        raise DataError(f"{where}: '{first}' holds no examples")
    return count
