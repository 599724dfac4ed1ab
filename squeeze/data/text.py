"""Text as token sequences of one length: packed end to end, cut, and some of them chosen by a seed.

Each sequence is predicted from its own start, and begins as the tokenizer begins a text: with its BOS token, where it
adds one by default. Which tokenizer cuts the text is the model's: the folder that ``open`` is
given. Sequences of one document are one independent unit: a line of ``.jsonl`` is a document, and in plain text a
document ends at two blank lines, at ``<|endoftext|>`` or before a title line of Wikitext, `` = Title = ``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import PositiveInt

from squeeze.data.base import Dataset, Example
from squeeze.data.sources import DataSource
from squeeze.data.text_file import DOCUMENT_END, TextFile, byte_places
from squeeze.errors import DataError, first_line
from squeeze.models.base import Batch
from squeeze.models.language.memory import trim_heap
from squeeze.models.tokenizer import read_tokenizer as read_tokenizer

MANY = 100_000  # tokens: cutting so many took 600 bytes each, which are handed back
TOO_SHORT = "length: a sequence of one token leaves nothing to predict; 2 or more would do"
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
        return TokenDataset(self.name, self.tokens[chosen], documents, self.decode, sizes, self.file)


class TextData(DataSource):
    """A text file, or ``.jsonl`` with a text per line; also ``.gz``; cut to sequences of ``length`` tokens."""

    kind = "text"

    text: str
    """The file."""
    length: PositiveInt = 512
    """Tokens per sequence: the context of every score."""
    bos: bool | None = None
    """Whether each sequence begins with the token that opens a text; null: as the tokenizer does it."""
    field: str = "text"
    """Of each line of a `.jsonl` file."""
    drop_overlap: bool = False
    """Calibration text only: leave out what shares 13 tokens or words in a row with evaluation, instead of a fault."""

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
        file = TextFile(root / self.text, self.field, model)
        tokens, documents, sizes = _tokenize(tokenizer, file.texts(), opening)
        if not len(tokens):
            raise DataError(f"{self.text}: holds no text")
        if len(tokens) > MANY:
            trim_heap()
        every = list(_cut(tokens, opening, self.length))
        if not every:
            raise DataError(
                f"{self.text}: {len(tokens)} tokens do not fill one sequence of {self.length}; shorter would do"
            )
        stride = self.length - len(opening)
        name = f"text:{Path(self.text).name}, context {self.length}, stride {stride}{', BOS' if opening else ''}"
        sequences = [every[index] for index in self.chosen(len(every))]
        total = None if sizes is None else np.concatenate([[0], np.cumsum(sizes)])
        return TokenDataset(
            name,
            np.stack([one.tokens for one in sequences]),
            documents[[one.first for one in sequences]],
            decoder(tokenizer),
            None if total is None else np.array([total[one.stop] - total[one.first] for one in sequences]),
            file,
        )

    def faults(self, root: Path) -> Iterator[str]:
        faults = list(super().faults(root))
        yield from faults
        if self.length < 2:
            yield f"text: {TOO_SHORT}"
        if not faults and not (root / self.text).is_file():
            yield f"text: {root / self.text} is no file"


def decoder(tokenizer: Any) -> Decode:
    """Makes text of tokens, without those that open and end a text."""
    return lambda sequences: list(tokenizer.batch_decode(sequences, skip_special_tokens=True))


def opening_tokens(tokenizer: Any, bos: bool | None, where: str) -> list[int]:
    """The token that every text begins with, or none: a model that was trained with one is lost without it.

    Args:
        bos: None: as the tokenizer does it by default.

    Raises:
        DataError: one is asked for, and the tokenizer has none.
    """
    token = tokenizer.bos_token_id
    if bos and token is None:
        raise DataError(f"{where}: bos: the tokenizer has no token that opens a text; leave bos out")
    by_default = token is not None and tokenizer("a")["input_ids"][:1] == [token]
    return [token] if (by_default if bos is None else bos) else []


def encoded(tokenizer: Any, texts: str | list[str], **options: Any) -> Any:
    """What a tokenizer makes of a text, or of several.

    Raises:
        DataError: it knows neither a word nor a token for words that it does not know.
    """
    try:
        return tokenizer(texts, **options)
    except Exception as error:  # the tokenizers' own library raises nothing narrower
        raise DataError(f"the model's tokenizer cannot read a text ({first_line(error)})") from None


def _tokenize(
    tokenizer: Any, texts: Iterator[str], opening: list[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """All texts end to end; and of each token the number of its document, and bytes (None: the tokenizer is slow).

    Between two texts stand the token that ends a text, where the tokenizer has one, and the one that opens the next.
    """
    pieces: list[int] = []
    documents, sizes = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    count = 0
    for text in texts:
        if pieces:
            ending = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
            pieces += ending + opening
            documents.append(np.repeat([count - 1, count], [len(ending), len(opening)]))
            sizes.append(np.zeros(len(ending + opening), dtype=np.int64))
        starts = np.array([match.end() for match in DOCUMENT_END.finditer(text)], dtype=np.int64)
        cut = encoded(
            tokenizer, text, add_special_tokens=False, verbose=False, return_offsets_mapping=tokenizer.is_fast
        )
        pieces += cut["input_ids"]
        letters = np.zeros(len(cut["input_ids"]) + 1, dtype=np.int64)
        if tokenizer.is_fast:  # only a fast tokenizer says where a token stands
            letters, places = byte_places(text, cut["offset_mapping"])
            sizes.append(np.diff(places))
        documents.append(count + np.searchsorted(starts, letters[:-1], side="right"))
        count += len(starts) + 1
    told = np.concatenate(sizes) if tokenizer.is_fast else None
    return np.asarray(pieces, dtype=np.int64), np.concatenate(documents), told


class _Sequence(NamedTuple):
    """Tokens of one sequence, and the places of those that are predicted: from the text's ``first`` to ``stop``."""

    tokens: np.ndarray
    first: int
    stop: int


def _cut(tokens: np.ndarray, opening: list[int], length: int) -> Iterator[_Sequence]:
    """Sequences of that length. Where the text itself opens, what stands before a sequence is not repeated."""
    place, opens = 0, np.array(opening, dtype=np.int64)
    while place < len(tokens):
        before = opens[:0] if opening and tokens[place] == opening[0] else opens
        stop = place + length - len(before)
        if stop > len(tokens):
            return
        yield _Sequence(np.concatenate([before, tokens[place:stop]]).astype(np.int64), place + 1 - len(before), stop)
        place = stop
