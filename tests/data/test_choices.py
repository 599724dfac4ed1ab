"""Questions for language models: each form is read as what it asks; what cannot serve is one line naming the entry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from language_world import LETTERS, open_with_bos, write_tokenizer

from squeeze.data.choice_sources import ChoiceSource, LastWordsData, PairsData, QuestionsData
from squeeze.data.choices import ChoiceDataset
from squeeze.data.overlap import refuse_overlap, without_overlap
from squeeze.data.text import TextData, TokenDataset
from squeeze.errors import DataError

INSTRUCTED = (
    "Please choose the correct answer: why so?\n\nAnswer1: cause Answer2: no cause\n\nAnswer format: answer1/answer2"
)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A folder with a tokenizer of single letters."""
    write_tokenizer(tmp_path)
    return tmp_path


def opened(world: Path, source: ChoiceSource, *entries: Any) -> ChoiceDataset:
    (world / source.where()).write_text("\n".join(json.dumps(entry) for entry in entries))
    return source.open(world, world)


def words(data: ChoiceDataset, index: int = 0) -> list[tuple[str, str]]:
    """Given and scored, of each ending; a letter that the tokenizer does not know is a space."""
    text = [["".join([*LETTERS, "^"][t] for t in ending.tokens) for ending in data.endings(index)]]
    return [(whole[: e.start], whole[e.start :]) for whole, e in zip(*text, data.endings(index), strict=True)]


def test_both_sentences_of_a_pair_are_scored_whole(world: Path) -> None:
    data = opened(world, PairsData(pairs="p.jsonl"), {"sentence_good": "a cat", "sentence_bad": "cat a"})
    assert words(data) == [("^", "a cat"), ("^", "cat a")]
    assert data.label(0) == 0
    assert [ending.size_bytes for ending in data.endings(0)] == [5, 5]


def test_a_folder_of_pairs_is_one_set(world: Path) -> None:
    for name in ("b", "a"):
        (world / f"{name}.jsonl").write_text(json.dumps({"sentence_good": name, "sentence_bad": "x"}))
    (world / "tokenizer.json").rename(world / "t.keep")  # another .json would be read too
    (world / "tokenizer_config.json").rename(world / "c.keep")
    folder = world / "model"
    folder.mkdir()
    write_tokenizer(folder)
    data = PairsData(pairs=".").open(world, folder)
    assert [words(data, index)[0][1] for index in range(2)] == ["a", "b"]


@pytest.mark.parametrize(
    "entry",
    [
        {"question": "why so?", "options": ["cause", "no cause"], "answer": 1},
        {"question": "why so?", "options": ["cause", "no cause"], "answer": "no cause"},
        {"instruction": INSTRUCTED, "answer": "answer2"},
    ],
    ids=["number", "option", "instruction"],
)
def test_only_the_option_is_scored_behind_its_question(world: Path, entry: dict[str, Any]) -> None:
    data = opened(world, QuestionsData(questions="q.jsonl"), entry)
    assert [scored for _, scored in words(data)] == [" cause", " no cause"]
    assert words(data)[0][0].endswith("why so \n nswer ")  # capitals and marks are unknown letters: spaces
    assert data.label(0) == 1


def test_a_blank_is_filled_and_what_follows_is_scored(world: Path) -> None:
    entry = {"question": "ann saw bea so _ left.", "options": ["ann", "bea"], "answer": 0}
    data = opened(world, QuestionsData(questions="q.jsonl"), entry)
    assert words(data) == [("ann saw bea so ann", " left."), ("ann saw bea so bea", " left.")]


def test_the_last_word_is_scored_behind_all_before_it(world: Path) -> None:
    data = opened(world, LastWordsData(last_words="l.jsonl"), {"text": "one two three\n"})
    assert words(data) == [("one two", " three")]


def test_a_text_begins_as_the_tokenizer_begins_it(world: Path) -> None:
    """A model that never saw the token is asked in a way that nobody asks it; one that always did is lost without."""
    open_with_bos(world)
    data = opened(world, LastWordsData(last_words="l.jsonl"), {"text": "one two three\n"})
    assert words(data) == [("^one two", " three")]
    assert [len(text) for text in data.texts(0)] == [len("one two three")]
    pairs = opened(world, PairsData(pairs="p.jsonl"), {"sentence_good": "a cat", "sentence_bad": "cat a"})
    assert words(pairs) == [("^", "a cat"), ("^", "cat a")]


QUESTION = {"question": "why?", "options": ["a", "b"], "answer": 0}
UNFIT = {
    "no field": (PairsData(pairs="p.jsonl"), {"sentence_god": "a"}, "no 'sentence_good'; did you mean 'sentence_god'"),
    "empty": (PairsData(pairs="p.jsonl"), {"sentence_good": " ", "sentence_bad": "a"}, "'sentence_good' is \" \"; a"),
    "no object": (PairsData(pairs="p.jsonl"), [1], "entry 1 is no JSON object"),
    "one option": (QuestionsData(questions="q.jsonl"), QUESTION | {"options": ["a"]}, "1 options; two or more"),
    "no options": (QuestionsData(questions="q.jsonl"), QUESTION | {"options": "ab"}, "'options' is \"ab\"; a list"),
    "no answer": (QuestionsData(questions="q.jsonl"), QUESTION | {"answer": "c"}, "'answer' is \"c\"; the number of"),
    "far answer": (QuestionsData(questions="q.jsonl"), QUESTION | {"answer": 2}, "the answer is none of the 2 options"),
    "no form": (QuestionsData(questions="q.jsonl"), {"instruction": "why?", "answer": "a"}, "holds no 'Answer1: "),
    "bad label": (QuestionsData(questions="q.jsonl"), {"instruction": INSTRUCTED, "answer": "b"}, "is 'b'; answer1 wo"),
    "one word": (LastWordsData(last_words="l.jsonl"), {"text": "word"}, "'word' is one word; a text before it"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_an_entry_that_cannot_serve_is_named(world: Path, name: str) -> None:
    source, entry, message = UNFIT[name]
    with pytest.raises(DataError, match=message):
        opened(world, source, entry)


@pytest.mark.parametrize(("text", "message"), [("{", "cannot be read as JSON"), ('{"a": 1}', "holds a dict; a list")])
def test_a_file_that_holds_no_list_is_named(world: Path, text: str, message: str) -> None:
    (world / "q.json").write_text(text)
    with pytest.raises(DataError, match=rf"q\.json: {message}"):
        QuestionsData(questions="q.json").open(world, world)


def test_without_a_model_there_is_no_tokenizer(world: Path) -> None:
    (world / "q.jsonl").write_text(json.dumps(QUESTION))
    with pytest.raises(DataError, match=r"q\.jsonl: text needs a language model's tokenizer"):
        QuestionsData(questions="q.jsonl").open(world)


def test_a_question_that_stands_in_the_calibration_text_is_refused_or_left_out(world: Path) -> None:
    line = "the quick brown fox jumps over"
    data = opened(world, LastWordsData(last_words="l.jsonl"), {"text": line}, {"text": "nobody has read this one yet"})
    (world / "text.txt").write_text("abcdefgh " * 8 + line)
    calibrate = TextData(text="text.txt", length=16).open(world, world)
    with pytest.raises(DataError, match=r"choice:x: 1 of 2 examples are also in data\.calibrate"):
        refuse_overlap(data, {"calibrate": calibrate}, "choice:x")
    remaining = without_overlap(calibrate, data)
    assert isinstance(remaining, TokenDataset)
    assert 0 < len(remaining) < len(calibrate)
    refuse_overlap(data, {"calibrate": remaining}, "choice:x")


def test_short_texts_count_as_shared_only_as_a_whole() -> None:
    from squeeze.data.grams import sharing

    long = np.arange(100, 140)
    mine = [[np.array([1, 2, 3])], [np.array([110, 111, 112])], [np.array([], dtype=np.int64)]]
    assert sharing(mine, [long]).tolist() == [False, True, False]
    assert sharing([[long]], [np.array([110, 111, 112]), np.array([5, 6])]).tolist() == [True]
    assert sharing([[long]], [np.array([110, 111, 5])]).tolist() == [False]
