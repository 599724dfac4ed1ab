"""Token sequences of one length, whatever they were cut from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from squeeze.data.base import Dataset, Example
from squeeze.data.text_file import TextFile
from squeeze.models.base import Batch

Decode = Callable[[Sequence[np.ndarray]], list[str]]  # tokens of several texts to those texts


class TokenDataset(Dataset):
    """Token sequences of one length.

    Args:
        tokens: ``[n, length]``.
        documents: ``[n]``: the text that each begins in; None: its own.
        decode: Makes text of tokens again; None: only tokens can be compared.
        size_bytes: ``[n]``: of the text that all tokens but the first stand for; None: unknown.
        file: Where the text came from; None: from elsewhere.
    """

    def __init__(
        self,
        name: str,
        tokens: np.ndarray,
        documents: np.ndarray | None = None,
        decode: Decode | None = None,
        size_bytes: np.ndarray | None = None,
        file: TextFile | None = None,
    ) -> None:
        self.name, self.tokens, self._documents, self.decode = name, tokens, documents, decode
        self.size_bytes, self.file = size_bytes, file

    def plain_texts(self) -> list[list[str]] | None:
        return None if self.decode is None else [[text] for text in self.decode(list(self.tokens))]

    def longest(self) -> int:
        return int(self.tokens.shape[1])

    def highest_token(self) -> int:
        return int(self.tokens.max())

    @property
    def scored_tokens(self) -> int:
        return int(self.tokens[:, 1:].size)

    @property
    def documents(self) -> np.ndarray | None:
        return self._documents

    def __len__(self) -> int:
        return len(self.tokens)

    def example(self, index: int) -> Example:
        return Example(self.tokens[index], -1)

    def label(self, index: int) -> int:
        return -1

    def fingerprint(self, index: int) -> bytes:
        return bytes(self.tokens[index].tobytes())

    def batch(self, indices: np.ndarray) -> Batch:
        return Batch({"input_ids": torch.from_numpy(self.tokens[indices])})

    def only(self, chosen: np.ndarray) -> TokenDataset:
        """Some of the sequences; ``chosen`` is ``[n]`` bool."""
        documents, sizes = (None if of is None else of[chosen] for of in (self._documents, self.size_bytes))
        data = TokenDataset(self.name, self.tokens[chosen], documents, self.decode, sizes, self.file)
        data.selection = self.selection
        return data
