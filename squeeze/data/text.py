"""Text as token sequences of one length: packed end to end, cut, and some of them chosen by a seed.

Each sequence is predicted from its own start, and begins as the tokenizer begins a text: with its BOS token, where it
adds one by default. Which tokenizer cuts the text is the model's: the folder that ``open`` is
given. Sequences of one document are one independent unit: a line of ``.jsonl`` is a document, and in plain text a
document ends at two blank lines, at ``<|endoftext|>`` or before a title line of Wikitext, `` = Title = ``.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import PositiveInt

from squeeze.data.base import Dataset, Example
from squeeze.data.sources import DataSource
from squeeze.errors import DataError, did_you_mean, first_line
from squeeze.formats.regular import parse_json, require_regular, require_regular_folder
from squeeze.models.base import Batch

MOST_LETTERS = 2 * 10**9  # of one text, however small its .gz is
TOO_SHORT = "length: a sequence of one token leaves nothing to predict; 2 or more would do"
Decode = Callable[[Sequence[np.ndarray]], list[str]]  # tokens of several texts to those texts

DOCUMENT_END = re.compile(r"\n\n\n+|<\|endoftext\|>|\n(?= = [^=\n]+ = *\n)")


class TokenDataset(Dataset):
    """Token sequences of one length.

    Args:
        tokens: ``[n, length]``.
        documents: ``[n]``: the text that each begins in; None: its own.
        decode: Makes text of tokens again; None: only tokens can be compared.
    """

    def __init__(
        self, name: str, tokens: np.ndarray, documents: np.ndarray | None = None, decode: Decode | None = None
    ) -> None:
        self.name, self.tokens, self._documents, self.decode = name, tokens, documents, decode

    def plain_texts(self) -> list[list[str]] | None:
        return None if self.decode is None else [[text] for text in self.decode(list(self.tokens))]

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
        documents = None if self._documents is None else self._documents[chosen]
        return TokenDataset(self.name, self.tokens[chosen], documents, self.decode)


class TextData(DataSource):
    """A text file, or ``.jsonl`` with a text per line; also ``.gz``; cut to sequences of ``length`` tokens."""

    kind = "text"

    text: str
    length: PositiveInt = 512
    bos: bool | None = None  # each sequence begins with the token that opens a text; null: as the tokenizer does it
    field: str = "text"  # of a .jsonl line
    drop_overlap: bool = False  # of calibration text: leave out what shares 13 tokens or words in a row with evaluation

    def where(self) -> str:
        return self.text

    def has_labels(self) -> bool:
        return False

    def open(self, root: Path, model: Path | None = None) -> TokenDataset:
        if model is None:
            raise DataError(f"{self.text}: text needs a language model's tokenizer; model: {{hf: folder}} has one")
        tokenizer = read_tokenizer(model)
        if self.length < 2:
            raise DataError(f"{self.text}: {TOO_SHORT}")
        opening = opening_tokens(tokenizer, self.bos, self.text)
        tokens, documents = _tokenize(tokenizer, _texts(root / self.text, self.field), opening)
        if not len(tokens):
            raise DataError(f"{self.text}: holds no text")
        sequences, starts = _cut(tokens, opening, self.length)
        if not starts:
            raise DataError(
                f"{self.text}: {len(tokens)} tokens do not fill one sequence of {self.length}; shorter would do"
            )
        stride = self.length - len(opening)
        name = f"text:{Path(self.text).name}, context {self.length}, stride {stride}{', BOS' if opening else ''}"
        chosen = self.chosen(len(starts))
        return TokenDataset(name, sequences[chosen], documents[starts][chosen], decoder(tokenizer))

    def faults(self, root: Path) -> Iterator[str]:
        faults = list(super().faults(root))
        yield from faults
        if self.length < 2:
            yield f"text: {TOO_SHORT}"
        if not faults and not (root / self.text).is_file():
            yield f"text: {root / self.text} is no file"


def _texts(path: Path, field: str) -> Iterator[str]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    lines = path.name.removesuffix(".gz").endswith(".jsonl")
    require_regular(path, DataError)
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            if not lines:
                text = file.read(MOST_LETTERS + 1)
                if len(text) > MOST_LETTERS:
                    raise DataError(f"{path}: more than {MOST_LETTERS:,} letters; a part of it would do")
                yield text
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _field(line, field, f"{path}:{number}")
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as text ({first_line(error)})") from None


def _field(line: str, field: str, where: str) -> str:
    try:
        values = parse_json(line)
    except ValueError as error:
        raise DataError(f"{where}: no JSON ({error})") from None
    if not isinstance(values, dict) or field not in values:
        near = did_you_mean(field, values) if isinstance(values, dict) else ""
        raise DataError(f"{where}: no JSON object with a '{field}'{near}")
    if not isinstance(values[field], str):
        raise DataError(f"{where}: '{field}' is {json.dumps(values[field])[:40]}, no text")
    return str(values[field])


def read_tokenizer(model: Path) -> Any:
    """The tokenizer in a model's folder; code from the folder is never run.

    Raises:
        DataError: there is none.
    """
    from transformers import AutoTokenizer

    require_regular_folder(model, DataError)
    try:
        return AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    except Exception as error:  # the tokenizers' own library raises nothing narrower
        raise DataError(f"{model}: no tokenizer can be read here ({first_line(error)})") from None


def decoder(tokenizer: Any) -> Decode:
    """Makes text of tokens, without those that open and end a text."""
    return lambda sequences: list(tokenizer.batch_decode(sequences, skip_special_tokens=True))


def opening_tokens(tokenizer: Any, wanted: bool | None, where: str) -> list[int]:
    """The token that every text begins with, or none: a model that was trained with one is lost without it.

    Args:
        wanted: None: as the tokenizer does it by default.

    Raises:
        DataError: one is asked for, and the tokenizer has none.
    """
    bos = tokenizer.bos_token_id
    if wanted and bos is None:
        raise DataError(f"{where}: bos: the tokenizer has no token that opens a text; leave bos out")
    by_default = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    return [bos] if (by_default if wanted is None else wanted) else []


def _tokenize(tokenizer: Any, texts: Iterator[str], opening: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """All texts end to end, and the number of the document that each token is of.

    Between two texts stand the token that ends a text, where the tokenizer has one, and the one that opens the next.
    """
    pieces: list[int] = []
    documents = [np.empty(0, dtype=np.int64)]
    count = 0
    for text in texts:
        if pieces:
            ending = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
            pieces += ending + opening
            documents.append(np.repeat([count - 1, count], [len(ending), len(opening)]))
        starts = np.array([match.end() for match in DOCUMENT_END.finditer(text)], dtype=np.int64)
        offsets = len(starts) > 0 and tokenizer.is_fast  # only a fast tokenizer says where a token stands
        cut = tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=offsets)
        pieces += cut["input_ids"]
        places = np.array([start for start, _ in cut["offset_mapping"]]) if offsets else np.zeros(len(cut["input_ids"]))
        documents.append(count + np.searchsorted(starts, places, side="right"))
        count += len(starts) + 1
    return np.asarray(pieces, dtype=np.int64), np.concatenate(documents)


def _cut(tokens: np.ndarray, opening: list[int], length: int) -> tuple[np.ndarray, list[int]]:
    """Sequences ``[n, length]``, and the place of the token that each begins at.

    What stands before a sequence's first token is not repeated where the text itself opens there.
    """
    sequences, starts, place = [], [], 0
    while place < len(tokens):
        opened = opening and tokens[place] == opening[0]
        part = tokens[place : place + length - (0 if opened else len(opening))]
        sequence = part if opened else np.concatenate([np.array(opening, dtype=np.int64), part])
        if len(sequence) < length:
            break
        sequences.append(sequence)
        starts.append(place)
        place += len(part)
    return np.array(sequences, dtype=np.int64).reshape(-1, length), starts
