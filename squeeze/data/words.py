"""Words as they are compared: however a text is spaced, capitalised and punctuated, its words stay the same.

NFKC makes one letter of the ways to write it (wide, ligature, superscript), casefold one of upper and lower case;
punctuation and white space only part words. Han, kana and Thai are written without spaces: there each letter is a word.
"""

from __future__ import annotations

import re
import unicodedata

import numpy as np

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
WORD = re.compile(f"[{UNSPACED}]|[^\\W{UNSPACED}_]+")


def words(text: str) -> list[str]:
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def word_hashes(text: str) -> np.ndarray:
    """``[words]`` int64: equal within one process where the words are equal."""
    return np.array([hash(word) for word in words(text)], dtype=np.int64)
