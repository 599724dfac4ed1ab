"""Metrics of language models that bring data of their own: choices by log-likelihood, and last words."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import SerializeAsAny, field_validator

from squeeze.data.choice_sources import ChoiceSource
from squeeze.data.sources import DataSource
from squeeze.errors import DataError
from squeeze.evaluate.endings import EndingScores
from squeeze.evaluate.evidence.endings import Endings
from squeeze.evaluate.metrics import SHARE, Answers, ExampleMetric


class OwnDataMetric(ExampleMetric):
    """One yes or no per question of data that the metric names itself; the ledger calls it by both names."""

    limits: ClassVar[str] = SHARE

    unit, higher_is_better, counts = "share", True, True
    evidence = Endings
    several: ClassVar[bool] = True  # whether questions list several endings; False: one ending to predict

    data: SerializeAsAny[DataSource]
    """The questions: a source of pairs, questions or last words, as under `data:`."""
    called: str | None = None
    """Its name in the ledger, behind the metric's; null: that of the data's file."""

    @field_validator("data", mode="after")
    @classmethod
    def _of_questions(cls, value: DataSource) -> DataSource:
        if not isinstance(value, ChoiceSource) or value.several != cls.several:
            fit = "pairs or questions" if cls.several else "last_words"
            raise ValueError(f"'{value.kind}' is nothing that {cls.name} is asked of; {fit} would do")
        return value

    @property
    def label(self) -> str:
        return f"{self.name}:{self.called or Path(self.data.where()).stem}"

    def own_data(self) -> DataSource:
        return self.data

    def faults(self, root: Path) -> Iterator[str]:
        return (f"{self.label}: {message}" for message in self.data.faults(root))

    def per_example(self, logits: np.ndarray, labels: np.ndarray | None, original: np.ndarray) -> np.ndarray:
        raise DataError(f"{self.name} is of language models; top1 is of classifiers")

    def values(self, answers: Answers, labels: np.ndarray | None, original: Answers) -> np.ndarray:
        assert isinstance(answers, EndingScores), "scored on its own data"
        return self.right(answers)

    @abstractmethod
    def right(self, scores: EndingScores) -> np.ndarray:
        """``[questions]`` bool."""

    def options(self) -> dict[str, Any]:
        """As JSON values."""
        return self.model_dump(mode="json")


class Choice(OwnDataMetric):
    """Share of questions whose right ending is the likeliest of all: minimal pairs, multiple choice."""

    name = "choice"

    def right(self, scores: EndingScores) -> np.ndarray:
        return np.asarray(scores.chosen(per_byte=False) == scores.answers)


class ChoiceNorm(OwnDataMetric):
    """Choice by log-likelihood per byte of the ending, which others call acc_norm: long endings are not punished."""

    name = "choice_norm"

    def right(self, scores: EndingScores) -> np.ndarray:
        return np.asarray(scores.chosen(per_byte=True) == scores.answers)


class LastWord(OwnDataMetric):
    """Share of texts whose last word is, token by token, what the model finds likeliest (LAMBADA)."""

    name, several = "last_word", False

    def right(self, scores: EndingScores) -> np.ndarray:
        return scores.greedy
