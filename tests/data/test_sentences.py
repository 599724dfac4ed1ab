"""Sentences for encoders: filled up behind their end, told by a mask, in the order of their length."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from language_world import write_tokenizer

from squeeze.data.sentences import SentenceDataset, SentencesData
from squeeze.errors import DataError


@pytest.fixture
def world(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path)
    return tmp_path


def opened(world: Path, text: str, file: str = "s.tsv", **options: object) -> SentenceDataset:
    (world / file).write_text(text)
    return SentencesData(sentences=file, tokenizer=".", **options).open(world)


def test_shorter_sentences_come_first_with_their_own_labels(world: Path) -> None:
    data = opened(world, "abc\t1\na\t0\nab\t2\n")
    assert [tokens.tolist() for tokens in data.tokens] == [[0], [0, 1], [0, 1, 2]]
    assert [data.label(index) for index in range(3)] == [0, 2, 1]


def test_a_batch_is_as_long_as_its_longest_and_the_mask_tells_where_each_ends(world: Path) -> None:
    batch = opened(world, "abc\t1\na\t0\n").batch(np.array([1, 0]))
    assert batch.inputs["input_ids"].tolist() == [[0, 1, 2], [0, 0, 0]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.labels is not None
    assert batch.labels.tolist() == [1, 0]


def test_a_stopwatch_takes_the_middle_and_not_the_shortest(world: Path) -> None:
    data = opened(world, "".join(f"{'a' * n}\t0\n" for n in range(1, 12)))
    assert len(data.tokens[data.typical(1)[0]]) == 6
    assert [len(data.tokens[index]) for index in data.typical(3)] == [2, 6, 10]


def test_long_sentences_are_cut_and_quotes_are_letters_in_a_tsv(world: Path) -> None:
    assert [len(tokens) for tokens in opened(world, "abcdef\t1\n", length=4).tokens] == [4]
    assert len(opened(world, '"a" b\t1\n').tokens[0]) == 5
    assert len(opened(world, '"a, b",1\n', file="s.csv").tokens[0]) == 4


def test_sentences_alone_have_no_labels(world: Path) -> None:
    data = opened(world, "ab\na\n", labels=False)
    assert data.batch(np.arange(2)).labels is None


UNFIT = {
    "empty": ("", r"s\.tsv: holds no sentences"),
    "one column": ("abc\n", r"s\.tsv: row 1 has 1 columns; a sentence and a class would do"),
    "no sentence": ("abc\t1\n \t0\n", r"row 2 has 2 columns; a sentence and a class would do"),
    "no class": ("abc\tgood\n", r"s\.tsv: a class is no number .*; labels: false reads sentences alone"),
    "half a class": ("abc\t0.5\n", "the last column holds no class numbers"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_table_that_cannot_serve_is_one_line(world: Path, name: str) -> None:
    text, message = UNFIT[name]
    with pytest.raises(DataError, match=message):
        opened(world, text)


def test_bytes_that_are_no_text_are_told(world: Path) -> None:
    (world / "s.tsv").write_bytes(b"caf\xe9\t1\n")
    with pytest.raises(DataError, match=r"s\.tsv: cannot be read as a table"):
        SentencesData(sentences="s.tsv", tokenizer=".").open(world)


def test_what_is_missing_is_found_before_the_run(world: Path) -> None:
    messages = list(SentencesData(sentences="gone.tsv", tokenizer="nowhere").faults(world))
    assert len(messages) == 2
    assert "gone.tsv does not exist" in messages[0]
    assert "nowhere is no folder" in messages[1]


TABLES = {
    "lines.jsonl": '{"sentence": "a b", "label": 1}\n\n{"label": true, "sentence": "c"}\n',
    "other.jsonl": '{"text": "a b", "class": 1}\n{"text": "c", "class": "1"}\n',
    "head.csv": "class,note,text\n1,x,a b\n1,y,c\n",
    "head.tsv": "text\tclass\tnote\na b\t1\tx\nc\t1\ty\n",
}


@pytest.mark.parametrize("file", TABLES)
def test_columns_are_found_by_name(world: Path, file: str) -> None:
    options = {} if file == "lines.jsonl" else {"column": "text", "label": "class"}
    data = opened(world, TABLES[file], file, **options)
    assert data.plain_texts() == [["c"], ["a b"]]
    assert data.labels.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("file", "content", "options", "message"),
    [
        ("a.jsonl", '{"sentense": "a", "label": 1}', {}, "line 1 has no 'sentence'; did you mean 'sentense'"),
        ("a.jsonl", '{"sentence": 3, "label": 1}', {}, "line 1: 'sentence' is no sentence"),
        ("a.jsonl", "[1]", {}, 'line 1 is no mapping; {"sentence": "a sentence"} would be one'),
        ("a.jsonl", "{", {}, "line 1 is no JSON"),
        ("a.jsonl", '{"sentence": "a", "label": "good"}', {}, "a class is no number"),
        ("a.csv", "text,label\na,1\n", {"column": "txt"}, "row 1 names no column 'txt'; did you mean 'text'"),
        ("a.csv", "text,label\na,1\nb,2,3\n", {"column": "text"}, "row 3 has 3 columns, row 1 names 2"),
    ],
)
def test_a_column_that_is_not_there_is_one_line(
    world: Path, file: str, content: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        opened(world, content, file, **options)


def test_without_a_tokenizer_the_models_own_reads_the_sentences(world: Path) -> None:
    (world / "s.tsv").write_text("a b\t1\n")
    source = SentencesData(sentences="s.tsv")
    assert source.open(world, world).plain_texts() == [["a b"]]
    with pytest.raises(DataError, match="no tokenizer is named; tokenizer: folder would name one"):
        source.open(world)


def test_classes_named_and_left_out_are_one_line(world: Path) -> None:
    (world / "s.tsv").write_text("a\t1\n")
    messages = list(SentencesData(sentences="s.tsv", tokenizer=".", labels=False, label="class").faults(world))
    assert messages == ["label: class names a column, and labels: false reads none; leave one of them out"]
