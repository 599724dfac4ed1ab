"""A text cut as others cut it, so that a perplexity can be laid beside a published one.

gptq       GPTQ's reference code: rows of a table joined by two newlines and tokenized once, BOS only where the
           tokenizer puts it before a whole text; windows without overlap; all tokens but a window's first are scored.
           Rows are those of Hugging Face's wikitext: lines with their newline, empty where nothing is on them.
llama.cpp  ``llama-perplexity -f FILE -c LENGTH``: the file without its last newline; windows without overlap, whose
           first token is replaced by BOS where the tokenizer adds one; only the second half of each is scored.
lm-eval    ``loglikelihood_rolling``: each document alone, behind BOS (else EOS), every token scored once, the last
           window reaching back for context; summed per document, divided by words or bytes of all documents.

What is scored of them is the business of ``squeeze.evaluate.windows``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from squeeze.data.choices import ChoiceDataset, CutEnding, prefix_token
from squeeze.data.cut import decoder, encoded, opening_tokens
from squeeze.data.text_file import DOCUMENT_END, TextFile, byte_places
from squeeze.data.token_dataset import Decode
from squeeze.errors import DataError
from squeeze.models.tokenizer import read_tokenizer

Convention = Literal["gptq", "llama.cpp", "lm-eval"]
SHORTEST = {"gptq": 2, "llama.cpp": 3, "lm-eval": 1}  # contexts that leave a token to score
ROWS_BETWEEN = "\n\n"


@dataclass(frozen=True)
class Windows:
    """One example: windows whose scores are added up.

    Args:
        words, size_bytes: Of the text that is scored; None: unknown.
    """

    parts: tuple[CutEnding, ...]
    document: int
    words: int | None = None
    size_bytes: int | None = None

    @property
    def scored(self) -> int:
        return sum(len(part.tokens) - part.start for part in self.parts)


class WindowDataset(ChoiceDataset):
    """Windows, or documents of several windows, with what their scores are divided by."""

    def __init__(self, name: str, windows: list[Windows], decode: Decode | None = None) -> None:
        counts = np.array([len(one.parts) for one in windows], dtype=np.int64)
        super().__init__(name, [part for one in windows for part in one.parts], counts, np.zeros_like(counts), decode)
        self.windows = windows

    @property
    def documents(self) -> np.ndarray:
        return np.array([one.document for one in self.windows], dtype=np.int64)

    @property
    def scored_tokens(self) -> int:
        return sum(one.scored for one in self.windows)

    def fingerprint(self, index: int) -> bytes:
        one = self.windows[index]
        return super().fingerprint(index) + f"|{one.words}|{one.size_bytes}".encode()


def cut_windows(text: TextFile, convention: Convention, length: int, limit: int | None = None) -> WindowDataset:
    """Cut a text by a convention.

    Args:
        length: The most tokens that the model reads at once.
        limit: Only so many windows (lm-eval: documents), the first ones; None: all.

    Raises:
        DataError: the text is too short, or of a kind that the convention does not know.
    """
    if length < (least := SHORTEST[convention]):
        raise DataError(f"{convention}: length: {length} leaves nothing to score; {least} or more would do")
    cutter = {"gptq": _gptq, "llama.cpp": _llama_cpp, "lm-eval": _lm_eval}[convention]
    tokenizer = read_tokenizer(text.model)
    windows, bos = cutter(tokenizer, text, length)
    if not windows:
        raise DataError(f"{text.name}: too short for one window of {length} tokens; a smaller length would do")
    chosen = windows[:limit]
    note = f", the first {len(chosen):,} of {len(windows):,}" if len(chosen) < len(windows) else ""
    name = f"text:{text.name}, {convention}: context {length}, stride {length}, {bos}{note}"
    return WindowDataset(name, chosen, decoder(tokenizer))


def _gptq(tokenizer: Any, text: TextFile, length: int) -> tuple[list[Windows], str]:
    rows = text.rows()
    joined = ROWS_BETWEEN.join(row for row, _ in rows)
    ends = np.cumsum([len(row) + len(ROWS_BETWEEN) for row, _ in rows])
    starts = np.concatenate([[0], ends[:-1]])[[opens for _, opens in rows]]
    bos = "BOS once" if opening_tokens(tokenizer, None, text.name) else "no BOS"
    return _side_by_side(tokenizer, joined, starts, length, first=1, bos=None), bos


def _llama_cpp(tokenizer: Any, text: TextFile, length: int) -> tuple[list[Windows], str]:
    if text.by_lines:
        raise DataError(f"{text.name}: llama.cpp reads one plain text; a .txt would do")
    whole = text.whole().removesuffix("\n")
    opening = opening_tokens(tokenizer, None, text.name)
    starts = np.array([0, *(match.end() for match in DOCUMENT_END.finditer(whole))])
    windows = _side_by_side(tokenizer, whole, starts, length, length // 2 + 1, opening[0] if opening else None)
    if len(windows) < 2:
        raise DataError(f"{text.name}: llama.cpp wants two windows of {length} tokens; a smaller length would do")
    return windows, ("BOS in each" if opening else "no BOS") + ", second halves scored"


def _side_by_side(
    tokenizer: Any, text: str, starts: np.ndarray, length: int, first: int, bos: int | None
) -> list[Windows]:
    """Windows without overlap, scored from their token ``first`` on; the first one begins as the tokenizer begins it.

    Args:
        starts: Places in the text at which documents begin.
        bos: What stands in place of each window's first token; None: the token itself.
    """
    encoding = encoded(tokenizer, text, verbose=False, return_offsets_mapping=tokenizer.is_fast)
    tokens = np.array(encoding["input_ids"], dtype=np.int64)
    letters, places = byte_places(text, encoding["offset_mapping"]) if tokenizer.is_fast else (None, None)
    windows = []
    for start in range(0, len(tokens) - length + 1, length):
        part = tokens[start : start + length].copy()
        if bos is not None:
            part[0] = bos
        size = None if places is None else int(places[start + length] - places[start + first])
        document = 0 if letters is None else int(np.searchsorted(starts, letters[start], side="right"))
        windows.append(Windows((CutEnding(part, first, size or 1),), document, None, size))
    return windows


def _lm_eval(tokenizer: Any, text: TextFile, length: int) -> tuple[list[Windows], str]:
    prefix, windows = prefix_token(tokenizer, text.name), []
    for number, document in enumerate(text.documents()):
        tokens = encoded(tokenizer, document, add_special_tokens=False, verbose=False)["input_ids"]
        words, size = len(re.split(r"\s+", document)), len(document.encode())
        if tokens:
            windows.append(Windows(tuple(_rolling(tokens, prefix, length)), number, words, size))
    name = "BOS" if prefix == tokenizer.bos_token_id else "EOS"
    return windows, f"{name} before each document"


def _rolling(tokens: list[int], prefix: int, length: int) -> list[CutEnding]:
    """Windows of up to ``length`` tokens that are read and one that is only scored; each token is scored once."""
    whole, windows = np.array([prefix, *tokens], dtype=np.int64), []
    for start in range(1, len(whole), length):
        stop = min(start + length, len(whole))
        begin = max(0, stop - length - 1)
        windows.append(CutEnding(whole[begin:stop], start - begin, 1, opening=int(begin == 0)))
    return windows
