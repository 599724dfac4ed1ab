"""Choose among the very sequences that a text gives: copies and noise out, then a few that stand for all the rest.

Memory: 512 bytes a document, 300 a sequence, 8 a token of what is chosen, and what one text takes while it is cut
(``squeeze.data.cut``); the tokens of all sequences lie in a work file meanwhile. The text is read twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from squeeze.algorithms.coverage import spread_out
from squeeze.data.candidates import Candidates
from squeeze.data.copies import document_reasons
from squeeze.data.cut import Cut, documents_of
from squeeze.data.select import Select
from squeeze.data.text_vectors import text_vectors
from squeeze.data.token_dataset import TokenDataset
from squeeze.errors import DataError
from squeeze.work import temporary_folder

BAND = 0.1  # of the losses, at either end
MOST_SIGNS = 0.25  # of all that is printed in a sequence
TOGETHER = 512  # sequences that are decoded at once
NOT_NEEDED = "not needed"


@dataclass(frozen=True)
class Measured:
    """What the original says of sequences.

    Args:
        loss: ``[n]``: the mean over their tokens, in nats.
        hidden: float32 ``[n, hidden]``: the mean of what comes out of the last block.
    """

    loss: np.ndarray
    hidden: np.ndarray


Measure = Callable[[TokenDataset], Measured]


@dataclass(frozen=True)
class Selection:
    """One choice.

    Args:
        name: Of the text, for messages.
        samples: How many, where the options do not say it.
        skip: Sequences that are left out first, in the order of ``seed``.
        measure: Asks the original; None: nobody does.
    """

    name: str
    options: Select
    samples: int | None = None
    skip: int = 0
    seed: int = 0
    measure: Measure | None = None

    def of(self, cut: Cut) -> TokenDataset:
        """The chosen sequences in the order of the text; ``selection`` says how many others had which reason.

        Raises:
            DataError: what is left is less than one sequence, or less than ``samples``; nobody asks the original.
        """
        if self.options.asks_original and self.measure is None:
            raise DataError(f"{self.name}: select: quality: loss and vectors: hidden ask the original; a run lends it")
        documents = document_reasons((one for text in cut.texts() for one in documents_of(text)), self.options)
        with temporary_folder("select") as folder:
            every = Candidates(cut, documents, folder / "tokens")
            if not len(every):
                raise DataError(f"{self.name}: {cut.lack()}")
            hidden = self._filter(every)
            chosen = every.passing[self._chosen(every, hidden)]
            others = np.setdiff1d(every.passing, chosen)
            every.leave_out(others, NOT_NEEDED)
            data = every.dataset(chosen, self.name)
            data.tokens = np.array(data.tokens)  # the file is gone soon
        data.selection = {"sequences": len(every), "chosen": len(chosen), **every.counts()}
        return data

    def _filter(self, every: Candidates) -> np.ndarray | None:
        """Leave out what does not pass; vectors ``[passing, hidden]`` of the rest, if the original gives them."""
        order = np.random.default_rng(self.seed).permutation(len(every))
        every.leave_out(order[: self.skip], "skipped")
        if self.options.quality != "any":
            every.leave_out(np.array(list(_full_of_signs(every)), dtype=np.int64), "signs")
        passing = every.passing
        if not self.options.asks_original or not len(passing):
            return None
        assert self.measure is not None, "it was asked for above"
        measured = self.measure(every.dataset(passing, self.name))
        middle = np.ones(len(passing), dtype=bool)
        if self.options.quality == "loss":
            low, high = np.quantile(measured.loss, [BAND, 1 - BAND])
            every.leave_out(passing[measured.loss < low], "low loss")
            every.leave_out(passing[measured.loss > high], "high loss")
            middle = (measured.loss >= low) & (measured.loss <= high)
        return measured.hidden[middle] if self.options.vectors == "hidden" else None

    def _chosen(self, every: Candidates, hidden: np.ndarray | None) -> np.ndarray:
        """Places among those that pass, in order."""
        passing = every.passing
        count = self._count(every)
        if count >= len(passing):
            return np.arange(len(passing))
        if self.options.cover == "chance":
            return np.sort(np.random.default_rng(self.seed).permutation(len(passing))[:count])
        if hidden is None:
            hidden = text_vectors(len(passing), lambda which: every.texts(passing[which]), self.seed)
        return spread_out(hidden, count, self.seed)

    def _count(self, every: Candidates) -> int:
        """How many are chosen, if so many pass."""
        passing, of = len(every.passing), f"{len(every)} sequences"
        reasons = ", ".join(f"{count} {reason}" for reason, count in every.counts().items())
        why = f" ({reasons})" if reasons else ""
        if not passing:
            raise DataError(f"{self.name}: select leaves none of {of}{why}; quality: any or duplicates: keep would")
        if self.samples is not None and self.samples > passing:
            raise DataError(f"{self.name}: samples asks for {self.samples}; select leaves {passing} of {of}{why}")
        count = self.options.count(len(every))
        if count == 0:
            raise DataError(f"{self.name}: select: share: {self.options.share} of {of} is less than one; more would do")
        return count or self.samples or passing


def _full_of_signs(every: Candidates) -> Iterator[int]:
    """Numbers of the sequences in which more than a quarter of what is printed is neither letter nor digit."""
    for start in range(0, len(every.passing), TOGETHER):
        which = every.passing[start : start + TOGETHER]
        for number, text in zip(which.tolist(), every.texts(which), strict=True):
            printed = "".join(text.split())
            if sum(not letter.isalnum() for letter in printed) > MOST_SIGNS * len(printed):
                yield number
