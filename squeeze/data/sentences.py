"""Sentences with a class each, for encoders: token numbers and a mask, shorter ones filled up behind their end.

Examples stand in the order of their length, so that what goes through a model together is about as long.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from pydantic import PositiveInt

from squeeze.data.base import Dataset, Example
from squeeze.data.cut import decoder, encoded
from squeeze.data.sources import DataSource, whole_labels
from squeeze.data.token_dataset import Decode
from squeeze.errors import DataError, did_you_mean, first_line
from squeeze.formats.regular import require_regular
from squeeze.models.base import Batch
from squeeze.models.tokenizer import TOKENIZER, read_tokenizer


class SentenceDataset(Dataset):
    """Token numbers of sentences, each as long as it is.

    Args:
        tokens: Per sentence, ``[length]`` int64, shortest first.
        labels: ``[n]``; -1: none.
        fill: The token that fills up a batch; the mask leaves it out.
        decode: Makes text of tokens again; None: only tokens can be compared.
        tokenizer: The file that the tokenizers library reads; None: it is of another kind.
        most: Tokens that a sentence was cut to; None: it was not.
    """

    def __init__(
        self,
        name: str,
        tokens: list[np.ndarray],
        labels: np.ndarray,
        fill: int,
        decode: Decode | None = None,
        tokenizer: bytes | None = None,
        most: int | None = None,
    ) -> None:
        self.name, self.tokens, self.labels, self.fill, self.decode = name, tokens, labels, fill, decode
        self.tokenizer, self.most = tokenizer, most

    def longest(self) -> int:
        return max(map(len, self.tokens), default=0)

    def highest_token(self) -> int:
        return max((int(tokens.max(initial=0)) for tokens in self.tokens), default=0)

    def packaged_files(self) -> dict[str, bytes]:
        return {} if self.tokenizer is None else {TOKENIZER: self.tokenizer}

    def packaged(self) -> dict[str, object]:
        if self.tokenizer is None:
            return self.preprocessing()
        return {"tokenizer": TOKENIZER, "length": self.most, "fill": self.fill}

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
    """A table, ``.tsv``, ``.csv`` or ``.jsonl``: sentences, and the numbers of their classes.

    Without named columns a sentence stands in the first one and its class in the last; a table whose columns are named
    begins with their names. A line of ``.jsonl`` is a mapping; its columns are ``sentence`` and ``label`` unless named.
    """

    kind = "sentences"

    sentences: str
    """The table."""
    tokenizer: str | None = None
    """A folder with a tokenizer; null: the plan's model's own."""
    length: PositiveInt = 128
    """Tokens of the longest sentence; what is longer is cut."""
    labels: bool = True
    """False: lines are sentences alone."""
    column: str | None = None
    """The column of the sentences; null: the first one, or `sentence` of a .jsonl line."""
    label: str | None = None
    """The column of the classes; null: the last one, or `label` of a .jsonl line."""

    def has_labels(self) -> bool:
        return self.labels

    def faults(self, root: Path) -> Iterator[str]:
        yield from super().faults(root)
        if self.label is not None and not self.labels:
            yield f"label: {self.label} names a column, and labels: false reads none; leave one of them out"
        if self.tokenizer is not None and not (root / self.tokenizer).is_dir():
            yield f"tokenizer: {root / self.tokenizer} is no folder"

    def open(self, root: Path, model: Path | None = None) -> SentenceDataset:
        rows = self._rows(root / self.sentences)
        if not rows:
            raise DataError(f"{self.sentences}: holds no sentences")
        rows = [rows[index] for index in self.chosen(len(rows))]
        tokenizer = read_tokenizer(self._tokenizer_folder(root, model))
        texts = [row[0] for row in rows]
        tokens = encoded(tokenizer, texts, truncation=True, max_length=self.length, padding=False)["input_ids"]
        labels = _labels(rows, self.sentences) if self.labels else np.full(len(rows), -1)
        order = np.argsort([len(sentence) for sentence in tokens], kind="stable")
        sorted_tokens = [np.array(tokens[index], dtype=np.int64) for index in order]
        fill = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        name = f"sentences:{Path(self.sentences).name}"
        content = tokenizer.backend_tokenizer.to_str().encode() if tokenizer.is_fast else None
        return SentenceDataset(name, sorted_tokens, labels[order], fill, decoder(tokenizer), content, self.length)

    def _tokenizer_folder(self, root: Path, model: Path | None) -> Path:
        if self.tokenizer is not None:
            return root / self.tokenizer
        if model is None:
            raise DataError(f"{self.sentences}: no tokenizer is named; tokenizer: folder would name one")
        return model

    def _rows(self, path: Path) -> list[list[str]]:
        """Of each line the sentence, and where there are labels its class."""
        if path.suffix == ".jsonl":
            columns = [self.column or "sentence", *([self.label or "label"] if self.labels else [])]
            return list(_json_rows(path, columns))
        rows = _rows(path, 2 if self.labels else 1)
        if self.column is None and self.label is None:
            return rows
        return _named_columns(path, rows, self.column, self.label)


def _rows(path: Path, columns: int) -> list[list[str]]:
    require_regular(path, DataError)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            tsv = path.suffix == ".tsv"  # there quotes are letters
            reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if tsv else csv.reader(file)
            rows = [row for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table ({first_line(error)})") from None
    for number, row in enumerate(rows, 1):
        if len(row) < columns or not row[0].strip():
            raise DataError(f"{path}: row {number} has {len(row)} columns; a sentence and a class would do")
    return rows


def _json_rows(path: Path, names: list[str]) -> Iterator[list[str]]:
    require_regular(path, DataError)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a table ({first_line(error)})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} is no JSON ({first_line(error)})") from None
        if not isinstance(values, dict):
            raise DataError(f'{where} is no mapping; {{"{names[0]}": "a sentence"}} would be one')
        for name in names:
            if name not in values:
                raise DataError(f"{where} has no '{name}'{did_you_mean(name, values)}")
        if not isinstance(values[names[0]], str) or not values[names[0]].strip():
            raise DataError(f"{where}: '{names[0]}' is no sentence")
        yield [values[names[0]], *(str(int(v) if isinstance(v, bool) else v) for v in map(values.get, names[1:]))]


def _named_columns(path: Path, rows: list[list[str]], column: str | None, label: str | None) -> list[list[str]]:
    """Sentence and class of the rows behind the first one, which names the columns."""
    head = rows[0] if rows else []
    for name in filter(None, (column, label)):
        if name not in head:
            raise DataError(f"{path}: row 1 names no column '{name}'{did_you_mean(name, head)}")
    places = [head.index(column) if column else 0, head.index(label) if label else -1]
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(head) or not row[places[0]].strip():
            raise DataError(f"{path}: row {number} has {len(row)} columns, row 1 names {len(head)}; none may be empty")
    return [[row[place] for place in places] for row in rows[1:]]


def _labels(rows: list[list[str]], where: str) -> np.ndarray:
    try:
        numbers = np.array([float(row[-1]) for row in rows])
    except ValueError as error:
        raise DataError(
            f"{where}: a class is no number ({first_line(error)}); labels: false reads sentences alone"
        ) from None
    return whole_labels(numbers, len(rows), f"{where}: the last column")
