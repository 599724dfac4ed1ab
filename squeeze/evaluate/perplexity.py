"""How surprised a language model is by a text, cut as the plan cuts it or as others do: perplexity, bits per byte."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import PositiveInt

from squeeze.data.base import Dataset
from squeeze.data.token_dataset import TokenDataset
from squeeze.data.windows import SHORTEST, Convention, WindowDataset, cut_windows
from squeeze.errors import DataError
from squeeze.evaluate.evidence.base import Evidence
from squeeze.evaluate.evidence.outputs import Tokens
from squeeze.evaluate.evidence.windows import WindowEvidence
from squeeze.evaluate.metrics import MEAN, Answers, ExampleMetric
from squeeze.evaluate.tokens import TokenScores
from squeeze.evaluate.windows import Per, WindowScores, rates
from squeeze.models.tasks.base import Task

LIMITS = MEAN + "; of one tokenizer, context and stride, and comparable with no other"


class TextMetric(ExampleMetric, ABC):
    """Surprise per token, word or byte of ``data.evaluate``'s text."""

    limits: ClassVar[str] = LIMITS
    evidence: ClassVar[type[Evidence]] = Tokens

    convention: Convention | None = None
    """Cut and scored as that code does it, the whole text: gptq (rows joined by two newlines, no BOS in the windows),
    llama.cpp (BOS in each window, second halves scored), lm-eval (each document alone, per word). null: as
    data.evaluate is cut."""
    length: PositiveInt | None = None
    """Context of a convention; null: data.evaluate's."""
    limit: PositiveInt | None = None
    """Only the first windows (lm-eval: documents) of a convention; null: all, as published figures have it."""

    @property
    def label(self) -> str:
        parts = [self.name, self.convention or ""]
        parts += [str(self.length)] if self.length else []
        parts += [f"first {self.limit}"] if self.limit else []
        return ":".join(filter(None, parts))

    def evidence_of(self, task: Task) -> type[Evidence]:
        return WindowEvidence if self.convention else super().evidence_of(task)

    def faults(self, root: Path) -> Iterator[str]:
        if self.convention is None:
            for name in ("length", "limit"):
                if getattr(self, name) is not None:
                    yield f"{self.name}: {name} is of a convention; data.evaluate has its own"
        elif self.length is not None and self.length < (least := SHORTEST[self.convention]):
            yield f"{self.label}: length: {self.length} leaves nothing to score; {least} or more would do"

    def cut(self, evaluate: Dataset) -> WindowDataset | None:
        if self.convention is None:
            return None
        if not isinstance(evaluate, TokenDataset) or evaluate.file is None:
            raise DataError(f"{self.label}: {evaluate.name} is no text file to cut anew; {{text: file}} would do")
        return cut_windows(evaluate.file, self.convention, self.length or evaluate.tokens.shape[1], self.limit)

    def per_example(self, logits: np.ndarray, labels: np.ndarray | None, original: np.ndarray) -> np.ndarray:
        raise DataError(f"{self.name} is of language models; loss is of classifiers")

    def values(self, answers: Answers, labels: np.ndarray | None, original: Answers) -> np.ndarray:
        if not isinstance(answers, TokenScores | WindowScores):
            return super().values(answers, labels, original)
        scores = WindowScores.of_tokens(answers) if isinstance(answers, TokenScores) else answers
        divisor = scores.divisor(self.divided_by())
        if divisor is None:
            raise DataError(f"{self.label}: {self.divided_by()}s of this text are not known")
        return rates(scores.nll, divisor)

    def needs_same_tokens(self) -> bool:
        return self.divided_by() != "byte" or self.convention is not None

    def divided_by(self) -> Per:
        """The unit of a text's length."""
        return "token"


class Perplexity(TextMetric):
    """``exp`` of the mean negative log-probability per token of a text (lm-eval: per word); its data says the cut."""

    name, unit, logarithmic = "perplexity", "perplexity", True

    per: Per | None = None
    """Of tokens, words or bytes; words are counted by lm-eval alone, and are its default."""

    @property
    def label(self) -> str:
        return f"{super().label}:per {self.per}" if self.per else super().label

    def divided_by(self) -> Per:
        return self.per or ("word" if self.convention == "lm-eval" else "token")

    def faults(self, root: Path) -> Iterator[str]:
        yield from super().faults(root)
        if self.per == "word" and self.convention != "lm-eval":
            yield f"{self.name}: per: word is of convention: lm-eval; token or byte would do"

    def shown(self, mean: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(mean))


class BitsPerByte(TextMetric):
    """Bits that the model needs per byte of UTF-8 text: comparable between tokenizers."""

    limits = MEAN + "; of one text and context, whatever the tokenizer"

    name, unit = "bits_per_byte", "bits"

    def divided_by(self) -> Per:
        return "byte"

    def values(self, answers: Answers, labels: np.ndarray | None, original: Answers) -> np.ndarray:
        return np.asarray(super().values(answers, labels, original) / np.log(2))
