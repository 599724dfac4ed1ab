"""Sentences with a class each, for encoders: token numbers and a mask, shorter ones filled up behind their end.

Examples stand in the order of their length, so that what goes through a model together is about as long.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from pydantic import PositiveInt

from squeeze.data.base import Dataset, Example
from squeeze.data.sources import DataSource, whole_labels
from squeeze.data.text import Decode, decoder, encoded, read_tokenizer
from squeeze.errors import DataError, first_line
from squeeze.formats.regular import require_regular
from squeeze.models.base import Batch


class SentenceDataset(Dataset):
    """Token numbers of sentences, each as long as it is.

    Args:
        tokens: Per sentence, ``[length]`` int64, shortest first.
        labels: ``[n]``; -1: none.
        fill: The token that fills up a batch; the mask leaves it out.
        decode: Makes text of tokens again; None: only tokens can be compared.
    """

    def __init__(
        self, name: str, tokens: list[np.ndarray], labels: np.ndarray, fill: int, decode: Decode | None = None
    ) -> None:
        self.name, self.tokens, self.labels, self.fill, self.decode = name, tokens, labels, fill, decode

    def plain_texts(self) -> list[list[str]] | None:
        return None if self.decode is None else [[text] for text in self.decode(self.tokens)]

    def __len__(self) -> int:
        return len(self.tokens)

    def example(self, index: int) -> Example:
        return Example(self.tokens[index], self.label(index))

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def fingerprint(self, index: int) -> bytes:
        return bytes(self.tokens[index].tobytes())

    def batch(self, indices: np.ndarray) -> Batch:
        chosen = [self.tokens[int(index)] for index in indices]
        ids = torch.full((len(chosen), max(map(len, chosen))), self.fill, dtype=torch.int64)
        for row, tokens in enumerate(chosen):
            ids[row, : len(tokens)] = torch.from_numpy(tokens)
        lengths = torch.tensor([len(tokens) for tokens in chosen])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        labels = torch.from_numpy(self.labels[indices])
        return Batch({"input_ids": ids, "attention_mask": mask}, None if (labels < 0).all() else labels)

    def typical(self, count: int) -> np.ndarray:
        """Of all lengths: a batch of one is a sentence of the middle."""
        places = (np.arange(count) + 0.5) / count * len(self)
        return places.astype(np.int64).clip(0, len(self) - 1)


class SentencesData(DataSource):
    """A table, ``.tsv`` or ``.csv``: in the first column a sentence, in the last the number of its class."""

    kind = "sentences"

    sentences: str
    """The table."""
    tokenizer: str
    """A folder with a tokenizer."""
    length: PositiveInt = 128
    """Tokens of the longest sentence; what is longer is cut."""
    labels: bool = True
    """False: lines are sentences alone."""

    def where(self) -> str:
        return self.sentences

    def has_labels(self) -> bool:
        return self.labels

    def faults(self, root: Path) -> Iterator[str]:
        yield from super().faults(root)
        if not (root / self.tokenizer).is_dir():
            yield f"tokenizer: {root / self.tokenizer} is no folder"

    def open(self, root: Path, model: Path | None = None) -> SentenceDataset:
        rows = _rows(root / self.sentences, 2 if self.labels else 1)
        if not rows:
            raise DataError(f"{self.sentences}: holds no sentences")
        rows = [rows[index] for index in self.chosen(len(rows))]
        tokenizer = read_tokenizer(root / self.tokenizer)
        texts = [row[0] for row in rows]
        tokens = encoded(tokenizer, texts, truncation=True, max_length=self.length, padding=False)["input_ids"]
        labels = _labels(rows, self.sentences) if self.labels else np.full(len(rows), -1)
        order = np.argsort([len(sentence) for sentence in tokens], kind="stable")
        sorted_tokens = [np.array(tokens[index], dtype=np.int64) for index in order]
        fill = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        name = f"sentences:{Path(self.sentences).name}"
        return SentenceDataset(name, sorted_tokens, labels[order], fill, decoder(tokenizer))


def _rows(path: Path, columns: int) -> list[list[str]]:
    require_regular(path, DataError)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in _reader(file, path.suffix) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table ({first_line(error)})") from None
    for number, row in enumerate(rows, 1):
        if len(row) < columns or not row[0].strip():
            raise DataError(f"{path}: row {number} has {len(row)} columns; a sentence and a class would do")
    return rows


def _reader(file: TextIO, suffix: str) -> Iterator[list[str]]:
    """In a .tsv quotes are letters."""
    return csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if suffix == ".tsv" else csv.reader(file)


def _labels(rows: list[list[str]], where: str) -> np.ndarray:
    try:
        numbers = np.array([float(row[-1]) for row in rows])
    except ValueError as error:
        raise DataError(
            f"{where}: a class is no number ({first_line(error)}); labels: false reads sentences alone"
        ) from None
    return whole_labels(numbers, len(rows), f"{where}: the last column")
