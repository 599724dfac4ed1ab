"""Texts that are only compared with others: documents that another tool scores a model on."""

from __future__ import annotations

from squeeze.data.base import Dataset, Example
from squeeze.data.words import words


class Documents(Dataset):
    """Documents, each of one text or several."""

    def __init__(self, name: str, texts: list[list[str]]) -> None:
        self.name, self.texts = name, texts

    def __len__(self) -> int:
        return len(self.texts)

    def plain_texts(self) -> list[list[str]] | None:
        return self.texts

    def fingerprint(self, index: int) -> bytes:
        return "\0".join(" ".join(words(text)) for text in self.texts[index]).encode()

    def label(self, index: int) -> int:
        return -1

    def example(self, index: int) -> Example:
        raise AssertionError("documents are read, not asked")
