"""The original's log-probabilities on disk, float16, read and written a few sequences at a time.

Plain reads and writes instead of a mapped file: pages of a mapped file count as memory for as long as it is open.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np

NAME = "log_probabilities.npy"


class KeptLogProbabilities:
    """An array ``[sequences, tokens, vocabulary]`` in a folder.

    Args:
        shape: Given to make a new one; None: one that is there.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int] | None = None) -> None:
        self.path = folder / NAME
        mode, kind = ("r", None) if shape is None else ("w+", np.float16)
        mapped = np.lib.format.open_memmap(self.path, mode=mode, dtype=kind, shape=shape)
        self.shape, self.offset = mapped.shape, mapped.offset
        del mapped

    def write(self, part: slice, rows: slice, values: np.ndarray) -> None:
        """float ``[tokens, vocabulary]``; ``rows`` are tokens counted from the first of sequence ``part.start``."""
        with self.path.open("r+b") as file:
            file.seek(self._place(part, rows))
            file.write(np.ascontiguousarray(values, dtype=np.float16).tobytes())

    def read(self, part: slice, rows: slice) -> np.ndarray:
        """float16 ``[tokens, vocabulary]``."""
        width = self.shape[2]
        count = (rows.stop - rows.start) * width
        flat = np.fromfile(self.path, np.float16, count, offset=self._place(part, rows))
        return flat.reshape(-1, width)

    def _place(self, part: slice, rows: slice) -> int:
        """Where tokens lie that are counted from the first of sequence ``part.start``."""
        return int(self.offset + 2 * (part.start * prod(self.shape[1:]) + rows.start * self.shape[2]))
