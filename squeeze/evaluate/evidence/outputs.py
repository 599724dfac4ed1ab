"""What a model predicts on the evaluation data: a classifier's or encoder's logits, a language model's tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from squeeze.data.recut import same_text
from squeeze.data.token_dataset import TokenDataset
from squeeze.errors import DataError
from squeeze.evaluate.endings import score_endings
from squeeze.evaluate.evaluator import logits_of
from squeeze.evaluate.evidence.base import EVALUATE, Evidence, OnEvaluationData, Reading, Subject
from squeeze.evaluate.tokens import Reference, TokenScores, noise_floor, score_tokens
from squeeze.evaluate.windows import WindowScores
from squeeze.models.language.decoder import decoder_of
from squeeze.models.language.language_model import in_shards
from squeeze.models.tasks.base import ROWS, TOKENS, Task

if TYPE_CHECKING:
    from squeeze.evaluate.metrics import Metric


FLOOR_EXAMPLES = 32  # examples of the original that are scored twice
ALONE, AGAIN, OTHER_TOKENS = "alone.npy", "again", "other tokens"


class Logits(OnEvaluationData[np.ndarray]):
    """Logits ``[n, classes]`` of every example."""

    kind = "logits"
    of_outputs = ROWS

    def collect(self, model: Subject, folder: Path) -> None:
        np.save(folder / "logits.npy", logits_of(model.model, self.data, self.sources.progress, f"score {model.name}"))
        if self.is_original(model):
            np.save(folder / ALONE, self._one_by_one(model))

    def _one_by_one(self, model: Subject) -> np.ndarray:
        """Logits of the first examples, each a batch of its own: sums are taken in another order."""
        first = range(min(len(self.data), FLOOR_EXAMPLES))
        return np.concatenate([model.model.predict(self.data.batch(np.array([index]))).numpy() for index in first])

    def read(self, folder: Path) -> np.ndarray:
        logits: np.ndarray = np.load(folder / "logits.npy")
        return logits

    def again(self, model: Subject) -> tuple[np.ndarray, np.ndarray] | None:
        if not self.is_original(model):
            return None
        alone: np.ndarray = np.load(self.entry(model) / ALONE)
        return alone, self.answers(model)[: len(alone)]


class Tokens(OnEvaluationData[TokenScores | WindowScores]):
    """Per predicted token: how surprised the model is, and how far it moved from the original.

    Of a model with other tokens than the original, per sequence: how surprised it is by the same text.
    """

    kind = "tokens"
    of_outputs = TOKENS

    def inputs(self, model: Subject) -> dict[str, object]:
        return super().inputs(model) | {"original": self._original(model).key}

    def collect(self, model: Subject, folder: Path) -> None:
        data, decoder, original = self.data, decoder_of(model.model), self._original(model)
        if not isinstance(data, TokenDataset):
            raise DataError(f"data.evaluate: {data.name}: a language model takes text; {{text: file}} would do")
        if decoder.vocabulary != decoder_of(original.model).vocabulary:
            self._score_text(model, data, folder / OTHER_TOKENS)
            return
        reference = None
        if model.key != original.key:
            reference = Reference(in_shards(original.model), self.entry(original))
        progress, in_file = self.sources.progress, self.sources.little_memory
        score_tokens(decoder, data, folder, reference, progress, f"score {model.name}", in_file).save(folder)
        if self.is_original(model):
            floor = noise_floor(Reference(in_shards(original.model), folder), data, progress, model.name)
            (folder / AGAIN).mkdir()
            floor.save(folder / AGAIN)

    def _score_text(self, model: Subject, data: TokenDataset, folder: Path) -> None:
        """What its tokens are, the model's own tokenizer says."""
        decoder = decoder_of(model.model)
        windows = same_text(data, decoder_of(self._original(model).model), decoder)
        scores = score_endings(decoder, windows, self.sources.progress, f"score {model.name}")
        folder.mkdir()
        WindowScores.of(scores, windows).save(folder)

    def read(self, folder: Path) -> TokenScores | WindowScores:
        other = folder / OTHER_TOKENS
        return WindowScores.load(other) if other.is_dir() else TokenScores.load(folder)

    def again(self, model: Subject) -> tuple[TokenScores, TokenScores] | None:
        if not self.is_original(model):
            return None
        scores = TokenScores.load(self.entry(model) / AGAIN)
        return scores, scores

    def _original(self, model: Subject) -> Subject:
        """The original it is compared to; the original is compared to itself."""
        return self.sources.original or model


class Outputs(Evidence):
    """Logits or tokens, by what the model does."""

    reads = frozenset({EVALUATE})

    @classmethod
    def for_task(cls, task: Task) -> type[Evidence]:
        return Tokens if task.outputs == TOKENS else Logits

    def reading(self, metric: Metric, model: Subject) -> Reading | None:
        raise AssertionError("for_task gives the kind that is collected")
