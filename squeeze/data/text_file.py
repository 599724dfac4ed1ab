"""A text file as texts, documents or rows, and where its tokens stand in it.

A line of ``.jsonl`` is a document; in plain text a document ends at two blank lines, at ``<|endoftext|>`` or before a
title line of Wikitext, `` = Title = ``. Which tokenizer cuts it is the business of ``squeeze.data.text``.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from squeeze.errors import DataError, did_you_mean, first_line
from squeeze.formats.regular import parse_json, require_regular

MOST_LETTERS = 2 * 10**9  # letters of one text, however small its .gz is
DOCUMENT_END = re.compile(r"\n\n\n+|<\|endoftext\|>|\n(?= = [^=\n]+ = *\n)")


@dataclass(frozen=True)
class TextFile:
    """A text file, and the folder whose tokenizer cuts it."""

    path: Path
    field: str  # key of a .jsonl line
    model: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def by_lines(self) -> bool:
        """Whether each line is a document of its own."""
        return self.path.name.removesuffix(".gz").endswith(".jsonl")

    def texts(self) -> Iterator[str]:
        """The whole file, or each line's text."""
        path = self.path
        opener: Any = gzip.open if path.suffix == ".gz" else open
        require_regular(path, DataError)
        try:
            with opener(path, "rt", encoding="utf-8") as file:
                if not self.by_lines:
                    text = file.read(MOST_LETTERS + 1)
                    if len(text) > MOST_LETTERS:
                        raise DataError(f"{path}: more than {MOST_LETTERS:,} letters; a part of it would do")
                    yield text
                    return
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield _field(line, self.field, f"{path}:{number}")
        except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: cannot be read as text ({first_line(error)})") from None

    def whole(self) -> str:
        """All of a file that is no ``.jsonl``."""
        return next(self.texts())

    def documents(self) -> list[str]:
        """Each text alone, without what parts them."""
        if self.by_lines:
            return list(self.texts())
        whole = self.whole()
        matches = list(DOCUMENT_END.finditer(whole))
        starts, stops = [0, *(m.end() for m in matches)], [*(m.start() for m in matches), len(whole)]
        parts = [whole[start:stop] for start, stop in zip(starts, stops, strict=True)]
        return [part for part in parts if part.strip()]

    def rows(self) -> list[tuple[str, bool]]:
        """Lines as Hugging Face's tables of text hold them, empty where nothing is on them; and whether a document
        begins there."""
        if self.by_lines:
            return [(text, True) for text in self.texts()]
        whole = self.whole()
        lines = list(io.StringIO(whole, newline="\n"))
        ends = np.cumsum([len(line) for line in lines])
        begun = np.searchsorted([match.end() for match in DOCUMENT_END.finditer(whole)], ends, side="left")
        opens = np.diff(begun, prepend=-1) > 0
        return [(line if line.strip() else "", bool(one)) for line, one in zip(lines, opens, strict=True)]


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


def byte_places(text: str, spans: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Where each token ``[n]`` and the text's end stand, in letters and in bytes of UTF-8, ``[n + 1]`` each."""
    letters = np.array([*(start for start, _ in spans), len(text)], dtype=np.int64)
    letters = np.maximum.accumulate(letters)  # special tokens have offset 0
    codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    widths = 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000)
    return letters, np.concatenate([[0], np.cumsum(widths)])[letters]
