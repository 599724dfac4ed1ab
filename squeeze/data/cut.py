"""Texts as token sequences of one length: packed end to end and cut as they are read, one text in memory at a time.

A line of ``.jsonl`` is a text; a plain file is one, and cutting it takes about 600 bytes a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice, pairwise
from typing import Any, NamedTuple

import numpy as np

from squeeze.data.text_file import DOCUMENT_END, byte_places
from squeeze.data.token_dataset import Decode
from squeeze.errors import DataError, first_line


class Piece(NamedTuple):
    """Tokens in a row, ``[n]`` each: their numbers, those of their documents, and bytes of text (0: not known)."""

    tokens: np.ndarray
    documents: np.ndarray
    sizes: np.ndarray


class CutSequence(NamedTuple):
    """One sequence.

    Args:
        tokens: int64 ``[length]``.
        documents: Of the tokens that are predicted.
        size_bytes: Of the text that those stand for.
    """

    tokens: np.ndarray
    documents: np.ndarray
    size_bytes: int


class Cut:
    """The sequences of texts, in order.

    Args:
        texts: Reads them anew.
        opening: What every sequence begins with. Where the text itself opens, it is not repeated.
        length: Tokens per sequence.
        most: How many sequences; None: all.

    After the last one, ``tokens`` says how many tokens the texts have; ``sized`` whether bytes are known.
    """

    def __init__(
        self,
        tokenizer: Any,
        texts: Callable[[], Iterable[str]],
        opening: list[int],
        length: int,
        most: int | None = None,
    ) -> None:
        self.tokenizer, self.texts, self.opening, self.length = tokenizer, texts, opening, length
        self.most = most
        self.tokens, self.sized = 0, bool(tokenizer.is_fast)

    def __iter__(self) -> Iterator[CutSequence]:
        return islice(self._sequences(), self.most)

    def _sequences(self) -> Iterator[CutSequence]:
        rest = Piece(*(np.empty(0, np.int64) for _ in Piece._fields))
        opens = np.array(self.opening, dtype=np.int64)
        self.tokens = 0
        for piece in _pieces(self.tokenizer, self.texts(), self.opening):
            self.tokens += len(piece.tokens)
            rest = Piece(*(np.concatenate(pair) for pair in zip(rest, piece, strict=True)))
            place = 0
            while place < len(rest.tokens):
                before = opens[:0] if self.opening and rest.tokens[place] == opens[0] else opens
                stop = place + self.length - len(before)
                if stop > len(rest.tokens):
                    break
                first = place + 1 - len(before)  # the first one that is predicted
                tokens = np.concatenate([before, rest.tokens[place:stop]])
                yield CutSequence(tokens, rest.documents[first:stop], int(rest.sizes[first:stop].sum()))
                place = stop
            rest = Piece(*(each[place:] for each in rest))

    def lack(self) -> str:
        if not self.tokens:
            return "holds no text"
        return f"{self.tokens} tokens do not fill one sequence of {self.length}; shorter would do"


def _pieces(tokenizer: Any, texts: Iterable[str], opening: list[int]) -> Iterator[Piece]:
    """The tokens of each text; between two texts the one that ends a text, if there is any, and the opening."""
    ending = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    count, read = 0, 0
    for text in texts:
        if read:
            between = np.array(ending + opening, dtype=np.int64)
            owners = np.repeat([count - 1, count], [len(ending), len(opening)])
            yield Piece(between, owners, np.zeros(len(between), np.int64))
        piece = _piece(tokenizer, text, count)
        read += len(piece.tokens)
        yield piece
        count += len(DOCUMENT_END.findall(text)) + 1


def _piece(tokenizer: Any, text: str, first: int) -> Piece:
    """One text, whose first document has that number."""
    offsets = bool(tokenizer.is_fast)  # only a fast tokenizer says where a token stands
    cut = encoded(tokenizer, text, add_special_tokens=False, verbose=False, return_offsets_mapping=offsets)
    tokens = np.asarray(cut["input_ids"], dtype=np.int64)
    letters, sizes = np.zeros(len(tokens) + 1, dtype=np.int64), np.zeros(len(tokens), dtype=np.int64)
    if offsets:
        letters, places = byte_places(text, cut["offset_mapping"])
        sizes = np.diff(places)
    starts = np.array([match.end() for match in DOCUMENT_END.finditer(text)], dtype=np.int64)
    return Piece(tokens, first + np.searchsorted(starts, letters[:-1], side="right"), sizes)


def documents_of(text: str) -> list[str]:
    """The documents of a text, as :class:`Cut` numbers them; what parts two belongs to the first."""
    ends = [0, *(match.end() for match in DOCUMENT_END.finditer(text)), len(text)]
    return [text[start:stop] for start, stop in pairwise(ends)]


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
