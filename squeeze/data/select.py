"""How a part of a text is chosen: the options, and what was chosen and why the rest was not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

PERCENT = re.compile(r"\s*(\d{1,3}(?:\.\d{1,6})?)\s*%\s*", re.ASCII)


def _is_a_part(value: Any) -> str:
    match = PERCENT.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 0 < float(match[1]) < 100:
        raise ValueError('more than 0 % and less than 100 % would do, as in "5 %"; leave share out to take all')
    return str(value)


class Select(BaseModel):
    """Which sequences of a text are used: copies and noise out, and of what passes a few that stand for all."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    share: Annotated[str, BeforeValidator(_is_a_part)] | None = None
    """How many of all sequences, as in "5 %"; null: `samples` of them, or all that pass."""
    duplicates: Literal["near", "exact", "keep"] = "near"
    """Documents that are left out: exact: with the words of an earlier one; near: also those that share most runs of
    five words with one (MinHash)."""
    quality: Literal["text", "loss", "any"] = "text"
    """What passes. text: documents of 20 words or more, sequences that are mostly letters and digits; loss: also only
    the middle 80 % by the original's loss, which costs one forward of all that is left; any: everything."""
    cover: Literal["clusters", "chance"] = "clusters"
    """clusters: as many from each cluster of what passes, those nearest to its centre; chance: any of them."""
    vectors: Literal["words", "hidden"] = "words"
    """What is clustered. words: hashed TF-IDF of single words and pairs; hidden: the original's mean last hidden
    states, which cost one forward of all that is left."""

    @property
    def asks_original(self) -> bool:
        """Whether it needs the model, not just its tokenizer."""
        return self.quality == "loss" or self.vectors == "hidden"

    def count(self, sequences: int) -> int | None:
        """How many of them are chosen; None: the share does not say it."""
        return None if self.share is None else round(sequences * float(self.share.strip().removesuffix("%")) / 100)

    def faults(self, samples: int | None) -> Iterator[str]:
        """What is wrong with the options together."""
        if self.share is not None and samples is not None:
            yield f'select: share: "{self.share}" and samples: {samples} both say how many; one of them would do'
        if self.cover == "chance" and self.vectors == "hidden":
            yield "select: vectors: hidden says what clusters are made of, and cover: chance makes none; leave it out"
