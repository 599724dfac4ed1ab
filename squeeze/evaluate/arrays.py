"""Scores in the store: a class whose fields are arrays, written to a folder and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np

FILE = "arrays.npz"


class SavedArrays:
    """Base of classes whose attributes are arrays (or None), each under the name that ``__init__`` gives it."""

    def save(self, folder: Path) -> None:
        """Write the arrays."""
        np.savez(folder / FILE, **{name: array for name, array in vars(self).items() if array is not None})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote."""
        with np.load(folder / FILE) as arrays:
            return cls(**{name: arrays[name] for name in arrays.files})
