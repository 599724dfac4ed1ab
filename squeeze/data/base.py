"""Data as every part of Squeeze sees it: examples in a fixed order, cut into batches.

Where examples come from is the business of the sources beside this module.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import scipy
import torch

from squeeze.data.similar_images import Sketch
from squeeze.data.words import word_hashes
from squeeze.errors import DataError
from squeeze.models.base import Batch


class Example(NamedTuple):
    """One decoded example: ``[c, h, w]`` float32 as the model wants it, and its label (-1: none)."""

    image: np.ndarray
    label: int


class Dataset(ABC):
    """Examples by number, the same ones in the same order for every row of the ledger."""

    name: str
    classes: list[str] | None = None  # what the labels mean, where the data says it
    selection: Mapping[str, int | str] = MappingProxyType({})  # how examples were chosen or written, for the report

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def example(self, index: int) -> Example:
        """Decode and preprocess one example."""

    @abstractmethod
    def label(self, index: int) -> int:
        """The label of one example without decoding it; -1 where there is none."""

    @abstractmethod
    def fingerprint(self, index: int) -> bytes:
        """What makes this example this one, before preprocessing: two equal ones are the same picture."""

    @cached_property
    def fingerprints(self) -> list[bytes]:
        """One per example, in order."""
        return [self.fingerprint(index) for index in range(len(self))]

    def plain_texts(self) -> list[list[str]] | None:
        """The texts of each example as a person reads them; None: there are none, or tokens that nothing decodes."""
        return None

    @cached_property
    def words(self) -> list[list[np.ndarray]] | None:
        """The hashed words of each example's texts, spelling and spacing folded; None: there are no texts to read."""
        texts = self.plain_texts()
        return None if texts is None else [[word_hashes(text) for text in example] for example in texts]

    def longest(self) -> int | None:
        """Tokens of the longest example; None: these are no texts."""
        return None

    def highest_token(self) -> int | None:
        """None: these are no texts."""
        return None

    def packaged_files(self) -> dict[str, bytes]:
        """What the packaged script needs beside the model to prepare an input."""
        return {}

    def packaged(self) -> dict[str, object]:
        """How the packaged script makes the model's input of pictures or sentences; JSON values."""
        return self.preprocessing()

    def example_name(self, index: int) -> str:
        """What messages call an example."""
        return f"example {index}"

    @cached_property
    def sketches(self) -> list[Sketch] | None:
        """What each picture looks like; None: these are no pictures."""
        return None

    def once(self) -> Dataset:
        """Each picture once, where several views of it are examples."""
        return self

    @property
    def scored_tokens(self) -> int | None:
        """How many tokens a language model predicts on it; None: it is no text."""
        return None

    @property
    def documents(self) -> np.ndarray | None:
        """``[n]`` numbers of what each example was cut from; None: each stands alone."""
        return None

    @cached_property
    def copy_of(self) -> np.ndarray:
        """``[n]``: the number of the first example that is the same one."""
        first: dict[bytes, int] = {}
        return np.array([first.setdefault(value, index) for index, value in enumerate(self.fingerprints)], np.int64)

    @cached_property
    def units(self) -> np.ndarray:
        """``[n]``, 0 and up: the independent unit of each example. Parts of one document are one, and copies are."""
        if self.documents is None:
            return np.unique(self.copy_of, return_inverse=True)[1]
        links = np.concatenate([self.copy_of, len(self) + np.unique(self.documents, return_inverse=True)[1]])
        places = np.concatenate([np.arange(len(self))] * 2)
        graph = scipy.sparse.coo_array((np.ones(len(links)), (places, links)), shape=(2 * len(self),) * 2)
        parts = scipy.sparse.csgraph.connected_components(graph, directed=False)[1]
        return np.unique(parts[: len(self)], return_inverse=True)[1]

    @cached_property
    def digest(self) -> str:
        """sha256 over all examples, in order, and how they are preprocessed."""
        total = hashlib.sha256(repr(self.preprocessing()).encode())
        for fingerprint in self.fingerprints:
            total.update(fingerprint)
        return total.hexdigest()

    def preprocessing(self) -> dict[str, object]:
        """How raw pixels become the model's input; JSON values, part of the digest and of every package."""
        return {}

    def batches(self, size: int, order: np.ndarray | None = None) -> Iterator[Batch]:
        """Batches of at most ``size`` examples, in order or in the order given (indices)."""
        indices = np.arange(len(self)) if order is None else order
        for start in range(0, len(indices), size):
            yield self.batch(indices[start : start + size])

    def shuffled(self, size: int, seed: int) -> Iterator[Batch]:
        """All examples once, in an order that the seed decides."""
        return self.batches(size, np.random.default_rng(seed).permutation(len(self)))

    def batch(self, indices: np.ndarray) -> Batch:
        """The examples with these numbers."""
        examples = [self.example(int(index)) for index in indices]
        self._require_one_shape(examples)
        images = torch.from_numpy(np.stack([example.image for example in examples]))
        labels = torch.tensor([example.label for example in examples], dtype=torch.int64)
        return Batch({"image": images}, None if (labels < 0).all() else labels)

    def _require_one_shape(self, examples: list[Example]) -> None:
        shapes = sorted({example.image.shape for example in examples})
        if len(shapes) > 1:
            first, second = (list(shape) for shape in shapes[:2])
            raise DataError(
                f"{self.name}: examples of different shapes, {first} and {second} [channels, height, width]; "
                "resize: and channels: would make them one"
            )

    def typical(self, count: int) -> np.ndarray:
        """Numbers of examples that a stopwatch may take for all."""
        return np.arange(count) % len(self)

    def subset(self, indices: np.ndarray) -> Dataset:
        """Some of the examples, as a dataset of its own."""
        return Subset(self, indices)

    def require_labels(self) -> None:
        """Raise ``DataError`` where there is nothing to score against."""
        if not len(self):
            raise DataError(f"{self.name}: no examples")
        if self.label(0) < 0:
            raise DataError(f"{self.name}: the examples carry no labels")


class Subset(Dataset):
    """Some examples of another dataset."""

    def __init__(self, parent: Dataset, indices: np.ndarray) -> None:
        self.parent, self.indices, self.name = parent, indices, parent.name

    def __len__(self) -> int:
        return len(self.indices)

    def example(self, index: int) -> Example:
        return self.parent.example(int(self.indices[index]))

    def label(self, index: int) -> int:
        return self.parent.label(int(self.indices[index]))

    def fingerprint(self, index: int) -> bytes:
        return self.parent.fingerprint(int(self.indices[index]))

    def batch(self, indices: np.ndarray) -> Batch:
        return self.parent.batch(self.indices[indices])

    @property
    def documents(self) -> np.ndarray | None:
        return None if self.parent.documents is None else self.parent.documents[self.indices]

    def preprocessing(self) -> dict[str, object]:
        return self.parent.preprocessing()
