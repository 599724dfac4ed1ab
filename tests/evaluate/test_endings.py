"""Endings are scored as if each text went through the model alone, whatever goes through it together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from language_world import edit, write_folder

from squeeze.data.choice_sources import LastWordsData, PairsData
from squeeze.data.choices import ChoiceDataset, CutEnding
from squeeze.data.text import TextData, TokenDataset
from squeeze.errors import ModelError
from squeeze.evaluate import endings as module
from squeeze.evaluate.choice import Choice, ChoiceNorm, LastWord
from squeeze.evaluate.endings import EndingScores, score_endings
from squeeze.evaluate.tokens import score_tokens
from squeeze.models.language.language_model import LanguageModel
from squeeze.progress import Progress, length_of

T = TypeVar("T")


def questions(lengths: list[int], each: int = 2) -> ChoiceDataset:
    random = np.random.default_rng(0)
    cut = [CutEnding(random.integers(0, 128, n), int(random.integers(1, n)), n) for n in lengths for _ in range(each)]
    return ChoiceDataset("questions", cut, np.full(len(lengths), each), np.zeros(len(lengths), dtype=np.int64))


def alone(model: LanguageModel, ending: CutEnding) -> tuple[float, bool]:
    tokens = torch.from_numpy(ending.tokens)[None]
    with torch.no_grad():
        log_q = model.whole()(input_ids=tokens, use_cache=False).logits[0, :-1].log_softmax(-1)
    log_p, right = log_q[ending.start - 1 :], tokens[0, ending.start :]
    return float(log_p.gather(-1, right[:, None]).sum()), bool((log_p.argmax(-1) == right).all())


@pytest.mark.parametrize("family", ["Llama", "Mixtral", "Gemma2", "Qwen2"])
def test_texts_of_many_lengths_are_scored_as_each_alone(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WALK_TOKENS", 64)  # several walks per width
    changes = {"head_dim": 16} if family == "Gemma2" else {}
    model = LanguageModel(write_folder(tmp_path, family, **changes))
    data = questions([2, 3, 7, 8, 9, 13, 24, 25, 33])
    result = score_endings(model, data, Progress(), "score")
    expected = [alone(model, ending) for ending in data.sequences]
    assert result.log_probability == pytest.approx([log_probabilities for log_probabilities, _ in expected], abs=1e-4)
    assert result.greedy.tolist() == [greedy for _, greedy in expected]


def test_the_likeliest_token_is_greedy(tmp_path: Path) -> None:
    model = LanguageModel(write_folder(tmp_path))
    tokens = np.random.default_rng(1).integers(0, 128, 10)
    (_, logits), *_ = model.logits(torch.from_numpy(tokens[None]))
    follows = int(logits[0, -1].argmax())
    cut = [CutEnding(np.append(tokens, token), 10, 1) for token in (follows, (follows + 1) % 128)]
    data = ChoiceDataset("last", cut, np.ones(2, dtype=np.int64), np.zeros(2, dtype=np.int64))
    assert score_endings(model, data, Progress(), "score").greedy.tolist() == [True, False]


def test_the_filling_is_never_more_than_half_a_text() -> None:
    for length in range(2, 3000):
        assert length <= module._width(length) <= max(8, 1.5 * length)
    assert len({module._width(length) for length in range(1, 4097)}) < 20


def test_nan_is_told(tmp_path: Path) -> None:
    def spoil(weights: dict[str, torch.Tensor]) -> None:
        weights["model.norm.weight"][0] = torch.nan

    model = LanguageModel(edit(write_folder(tmp_path), spoil))
    with pytest.raises(ModelError, match="score x: the model gives NaN or infinity"):
        score_endings(model, questions([5]), Progress(), "score x")


def scores(log_probability: list[float], sizes: list[int], counts: list[int], answers: list[int]) -> EndingScores:
    log_probabilities = np.array(log_probability)
    return EndingScores(log_probabilities, log_probabilities > -1, np.array(sizes), np.array(counts), np.array(answers))


def test_per_byte_a_long_ending_is_not_punished() -> None:
    result = scores([-4, -6, -1, -2, -3], [2, 6, 1, 1, 1], [2, 3], [1, 0])
    data = PairsData(pairs="p.jsonl")
    assert Choice(data=data).right(result).tolist() == [False, True]
    assert ChoiceNorm(data=data).right(result).tolist() == [True, True]


def test_scores_are_read_back_as_written(tmp_path: Path) -> None:
    result = scores([-4.0, -0.5], [2, 6], [1, 1], [0, 0])
    result.save(tmp_path)
    back = EndingScores.load(tmp_path)
    assert LastWord(data=LastWordsData(last_words="l")).right(back).tolist() == [False, True]
    assert back.log_probability.tolist() == [-4, -0.5]


def test_a_metric_is_called_by_its_data_or_as_told() -> None:
    assert Choice(data=PairsData(pairs="a/blimp")).label == "choice:blimp"
    assert ChoiceNorm(data=PairsData(pairs="a/b.jsonl"), called="mine").label == "choice_norm:mine"


@pytest.mark.parametrize(
    ("metric", "data", "fit"),
    [
        (Choice, TextData(text="t"), "'text' is nothing that choice is asked of; pairs or questions would do"),
        (Choice, LastWordsData(last_words="t"), "'last_words' is nothing that choice is asked of"),
        (LastWord, PairsData(pairs="t"), "'pairs' is nothing that last_word is asked of; last_words would do"),
    ],
)
def test_data_that_cannot_be_asked_is_refused(metric: type[Choice], data: TextData, fit: str) -> None:
    with pytest.raises(ValueError, match=fit):
        metric(data=data)


class Noted(Progress):
    """What was tracked, and how far."""

    def __init__(self) -> None:
        self.works: list[list[object]] = []

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        work: list[object] = [what, total if total is not None else length_of(items), 0]
        self.works.append(work)
        for done, item in enumerate(items):
            work[2] = done + 1
            yield item


def test_blocks_are_counted_while_texts_go_through_them(tmp_path: Path) -> None:
    """A long text's first result comes behind its last block: half an hour of `0 of 64` says nothing."""
    model, progress = LanguageModel(write_folder(tmp_path / "model", num_hidden_layers=3)), Noted()
    score_endings(model, questions([7, 9]), progress, "score")
    assert ["blocks", 3, 3] in progress.works
    progress.works.clear()
    data = TokenDataset("text", np.random.default_rng(0).integers(0, 128, (4, 16)))
    score_tokens(model, data, tmp_path, None, progress, "score original")
    assert progress.works == [["score original", 4, 4], ["blocks", 3, 3]]
