"""Vocabulary pruning: the plumbing; which tokens leave is decided in ``squeeze.algorithms.vocabulary``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import AfterValidator, PositiveInt, model_validator

from squeeze.algorithms.vocabulary import least_tokens, needed_tokens
from squeeze.data.base import Dataset
from squeeze.errors import ModelError
from squeeze.models import counts
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import OTHER_TOKENS, Context, Pass, Preview
from squeeze.surgery.vocabulary import Tokens, with_tokens, write_with_tokens

PERCENT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*", re.ASCII)


def _is_a_share(text: str) -> str:
    match = PERCENT.fullmatch(text)
    if match is None or not 0 < float(match[1]) < 100:
        raise ValueError(f'"{text}" is no share of the tokens; "30 %" would be')
    return text


class PruneVocabulary(Pass[LanguageModel, LanguageModel]):
    """Take out tokens that the user's text does not use; tokenizer, embedding and head are cut together.

    Byte-level BPE, SentencePiece's BPE and Unigram. What a token is merged of stays with it, and bytes, special tokens
    and those of the chat template always stay: any text is still encoded, in more tokens where it is another than
    the user's, and decodes to itself. The result is a stock model; bits_per_byte compares it with the original.
    """

    name: ClassVar[str] = "prune_vocabulary"
    refuses: ClassVar[frozenset[str]] = frozenset({"quantized", OTHER_TOKENS})
    leaves: ClassVar[frozenset[str]] = frozenset({OTHER_TOKENS})
    promises: ClassVar[frozenset[str]] = frozenset({"fewer_parameters", "fewer_bytes", "weights_changed"})

    text: Literal["calibrate", "train"] = "calibrate"
    """Whose tokens stay: those of data.calibrate, or of data.train; leave samples out there to count the whole file."""
    keep: Annotated[str, AfterValidator(_is_a_share)] | None = None
    """How many stay, as in "30 %" of them: those that the text uses most. null: tokens, or all that the text uses."""
    tokens: PositiveInt | None = None
    """The same as a number, 16384. More than the text uses: filled up with those that were merged first."""

    @model_validator(mode="after")
    def _one_goal(self) -> Self:
        if self.keep is not None and self.tokens is not None:
            raise ValueError('name one of keep and tokens: keep: "30 %", or tokens: 16384')
        return self

    def needed(self) -> frozenset[str]:
        return frozenset({"calibration" if self.text == "calibrate" else "train"})

    def faults(self, model: LanguageModel) -> Iterator[str]:
        def cut() -> None:
            self._size(model, Tokens.read(model.folder))
            with_tokens(model, model.tokens_known - 1)

        if not model.marks():  # else it is refused already
            yield from self.fault_of(cut)

    def preview(self, model: LanguageModel, before: Preview) -> Preview:
        size = self._size(model, Tokens.read(model.folder))
        if size is None:  # the text decides it
            return replace(before, touched=tuple(model.ends), exact=False)
        old_bytes, touched = counts.nbytes(model), tuple(model.ends)
        model.restructure(with_tokens(model, size))
        nbytes = before.nbytes - old_bytes + counts.nbytes(model)
        return Preview(touched, model.parameters(), nbytes, model.macs())

    def run(self, model: LanguageModel, context: Context) -> LanguageModel:
        tokens = Tokens.read(model.folder)
        size, counts = self._size(model, tokens), self._counts(model, context)
        staying = needed_tokens(_padded(tokens, model.tokens_known), counts.tolist(), tokens.required, size)
        staying = [number for number in staying if number < len(tokens.vocabulary.texts)]  # others have no text
        if len(staying) == model.tokens_known:
            what = f"the text uses all {len(staying):,} tokens"
            raise ModelError(f"{self.name}: {what}; tokens: a smaller number would cut")
        stays = np.isin(np.arange(model.tokens_known), staying)
        context.facts["tokens"] = [model.tokens_known, len(staying)]
        context.facts["text"] = {
            "tokens": int(counts.sum()),
            "of those that stay": float(counts[stays].sum() / counts.sum()),
        }
        return write_with_tokens(model, tokens, staying, context.model_folder())

    def _counts(self, model: LanguageModel, context: Context) -> np.ndarray:
        """How often the text uses each token, ``[tokens]``."""
        data: Dataset = context.calibration if self.text == "calibrate" else context.train
        numbers = [batch.inputs["input_ids"].numpy().ravel() for batch in data.batches(64)]
        return np.bincount(np.concatenate(numbers), minlength=model.tokens_known)

    def _size(self, model: LanguageModel, tokens: Tokens) -> int | None:
        """How many tokens stay; None: the text decides it.

        Raises:
            ModelError: as many as there are, or fewer than any text needs.
        """
        known = model.tokens_known
        if self.keep is None and self.tokens is None:
            return None
        match = PERCENT.fullmatch(self.keep or "")
        size = self.tokens if match is None else round(known * float(match[1]) / 100)
        assert size is not None
        goal = f"tokens: {size}" if match is None else f"keep: {self.keep}, {size} tokens,"
        if size >= known:
            raise ModelError(f"{goal} is no fewer than the {known} that the model has; there is nothing to cut")
        least = len(least_tokens(_padded(tokens, known), tokens.required))
        if size < least:
            raise ModelError(f"{goal} is fewer than the {least} that bytes, special tokens and chats need")
        return size


def _padded(tokens: Tokens, known: int) -> list[tuple[int, ...]]:
    """The parts of each row of the embedding: some have no token."""
    parts = tokens.vocabulary.parts
    return [*parts, *[()] * (known - len(parts))]
