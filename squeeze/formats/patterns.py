"""Patterns that a model's config brings: matched in linear time, whatever they are.

Python's own ``re`` backtracks, and a pattern of ten letters can keep it busy for years. RE2 cannot look ahead or refer
back; a pattern that does is refused by name.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from squeeze.errors import ModelError

MOST_LETTERS = 1_000
MOST_MEMORY_BYTES = 1 << 20  # memory of one compiled pattern


@lru_cache(maxsize=4096)
def pattern(text: str) -> Any:
    """A compiled pattern, with ``match`` and ``fullmatch`` as those of ``re``.

    Raises:
        ModelError: no pattern, too long, or one that needs backtracking.
    """
    import re2

    if len(text) > MOST_LETTERS:
        raise ModelError(f"pattern '{text[:40]}...' has {len(text):,} letters; {MOST_LETTERS:,} are the most")
    options = re2.Options()
    options.log_errors, options.max_mem = False, MOST_MEMORY_BYTES
    try:
        return re2.compile(text, options)
    except (re2.error, ValueError) as error:
        reason = error.args[0].decode(errors="replace") if isinstance(error, re2.error) else "letters that are none"
        raise ModelError(f"{text[:40]!a} is no pattern that can be matched in linear time ({reason})") from None
