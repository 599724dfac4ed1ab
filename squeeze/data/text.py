"""Text as token sequences of one length: packed end to end, cut, some of them chosen by a seed or by what they say.

Each sequence is predicted from its own start, and begins as the tokenizer begins a text: with its BOS token, where it
adds one by default. Which tokenizer cuts the text is the model's: the folder that ``open`` is given. Sequences of one
document (``squeeze.data.text_file``) are one independent unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import PositiveInt

from squeeze.data.cut import Cut, decoder, opening_tokens
from squeeze.data.select import Select
from squeeze.data.selecting import Measure, Selection
from squeeze.data.sources import DataSource
from squeeze.data.text_file import TextFile
from squeeze.data.token_dataset import TokenDataset as TokenDataset
from squeeze.errors import DataError
from squeeze.models.language.memory import apart, trim_heap
from squeeze.models.tokenizer import read_tokenizer

MANY = 100_000  # tokens: cutting so many of one text took 600 bytes each, which are handed back
TOO_SHORT = "length: a sequence of one token leaves nothing to predict; 2 or more would do"


class TextSource(DataSource):
    """Options of every text, whoever writes it."""

    length: PositiveInt = 512
    """Tokens per sequence: the context of every score."""
    select: Select | None = None
    """Calibration and training text only: which sequences are used, as in {share: "5 %"}; null: `samples` of them."""
    drop_overlap: bool = False
    """Calibration text only: leave out what shares 13 tokens or words in a row with evaluation, instead of a fault."""

    def has_labels(self) -> bool:
        return False

    def most_sequences(self) -> int | None:
        """None: as many as the text has."""
        return self.samples

    def chooses(self) -> bool:
        return super().chooses() or (self.select is not None and self.select.share is not None)

    def faults(self, root: Path) -> Iterator[str]:
        yield from super().faults(root)
        yield from self.option_faults()

    def option_faults(self) -> Iterator[str]:
        """What is wrong with the options alone."""
        if self.length < 2:
            yield f"{self.kind}: {TOO_SHORT}"
        if self.select is not None:
            yield from (f"{self.kind}: {line}" for line in self.select.faults(self.samples))


class TextData(TextSource):
    """A text file, or ``.jsonl`` with a text per line; also ``.gz``; cut to sequences of ``length`` tokens."""

    kind = "text"

    text: str
    """The file."""
    bos: bool | None = None
    """Whether each sequence begins with the token that opens a text; null: as the tokenizer does it."""
    field: str = "text"
    """Of each line of a `.jsonl` file."""

    def open(self, root: Path, model: Path | None = None) -> TokenDataset:
        return self.measured(root, model, None)

    def measured(
        self, root: Path, model: Path | None, measure: Measure | None, most: int | None = None
    ) -> TokenDataset:
        """The same, for a ``select`` that asks the original; of the first ``most`` sequences alone."""
        if model is None:
            raise DataError(f"{self.text}: text needs a language model's tokenizer; model: {{hf: folder}} has one")
        tokenizer = read_tokenizer(model)
        if self.length < 2:
            raise DataError(f"{self.text}: {TOO_SHORT}")
        opening = opening_tokens(tokenizer, self.bos, self.text)
        file = TextFile(root / self.text, self.field, model)
        cut = Cut(tokenizer, file.texts, opening, self.length, most)
        if self.select is None:
            data = apart(lambda: self._by_seed(cut))
        else:
            selection = Selection(self.text, self.select, self.samples, self.skip, self.seed, measure)
            data = selection.of(cut)
        if cut.tokens > MANY:
            trim_heap()
        stride = self.length - len(opening)
        data.name = f"text:{Path(self.text).name}, context {self.length}, stride {stride}{', BOS' if opening else ''}"
        data.file = file
        return data

    def _by_seed(self, cut: Cut) -> TokenDataset:
        every = [(one.tokens, int(one.documents[0]), one.size_bytes) for one in cut]
        if not every:
            raise DataError(f"{self.text}: {cut.lack()}")
        chosen = [every[index] for index in self.chosen(len(every))]
        tokens, documents, sizes = zip(*chosen, strict=True)
        known = np.array(sizes) if cut.sized else None
        return TokenDataset(self.text, np.stack(tokens), np.array(documents), decoder(cut.tokenizer), known)

    def faults(self, root: Path) -> Iterator[str]:
        faults = list(super().faults(root))
        yield from faults
        if not faults and not (root / self.text).is_file():
            yield f"text: {root / self.text} is no file"
