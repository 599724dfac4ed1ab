"""Several crops of each picture as examples of their own: intervals get narrower where pictures are few.

A picture near a decision's edge flips in one crop and not in the next, so the mean over its crops is a steadier witness
of what a pass did. Crops of one picture are no independent examples: intervals take them as one unit.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np

from squeeze.data.base import Dataset, Example
from squeeze.data.images import ImageDataset
from squeeze.data.preprocess import PLACES


class Views(Dataset):
    """Centre and corners of each picture, and these mirrored: a picture's views follow each other.

    The ten crops of Krizhevsky et al., 2012 (section 4.1), each scored by itself instead of averaged into one answer.

    Args:
        views: How many of each picture: 5, or 10 with the mirrored ones.
    """

    def __init__(self, pictures: ImageDataset, views: int) -> None:
        self.pictures, self.views = pictures, views
        self.name, self.classes = pictures.name, pictures.classes
        self._read = lru_cache(maxsize=1)(pictures.read)  # decoded once for all its views

    def __len__(self) -> int:
        return len(self.pictures) * self.views

    def example(self, index: int) -> Example:
        picture, view = divmod(index, self.views)
        return self.pictures.prepared(picture, self._read(picture), view)

    def label(self, index: int) -> int:
        return self.pictures.label(index // self.views)

    def example_name(self, index: int) -> str:
        picture, view = divmod(index, self.views)
        mirrored = ", mirrored" if view >= len(PLACES) else ""
        return f"{self.pictures.example_name(picture)} ({[*PLACES][view % len(PLACES)]}{mirrored})"

    def fingerprint(self, index: int) -> bytes:
        picture, view = divmod(index, self.views)
        return self._of_view(self.pictures.fingerprint(picture), view)

    @cached_property
    def fingerprints(self) -> list[bytes]:
        return [self._of_view(one, view) for one in self.pictures.fingerprints for view in range(self.views)]

    def _of_view(self, fingerprint: bytes, view: int) -> bytes:
        return fingerprint + bytes([view]) if view else fingerprint

    @cached_property
    def documents(self) -> np.ndarray:
        """``[n]``: the picture of each view."""
        return np.repeat(np.arange(len(self.pictures)), self.views)

    def once(self) -> Dataset:
        return self.pictures

    def preprocessing(self) -> dict[str, object]:
        """Of the centre, which is what a package cuts."""
        return self.pictures.preprocessing()
