"""Text as token sequences: what cannot serve is one line that names the file; calibration never overlaps evaluation."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from language_world import LETTERS, open_with_bos, write_folder, write_tokenizer

from squeeze.data.overlap import refuse_overlap, shared_examples, without_overlap
from squeeze.data.text import TextData, TokenDataset
from squeeze.data.words import words
from squeeze.errors import DataError, ModelError
from squeeze.evaluate.evidence.base import ScoredOn
from squeeze.evaluate.tokens import score_tokens
from squeeze.models.language.language_model import LanguageModel
from squeeze.progress import Progress

SENTENCE = "the quick brown fox jumps over the lazy dog.\n"


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A folder with a tokenizer of single letters and a text."""
    write_tokenizer(tmp_path)
    (tmp_path / "text.txt").write_text(SENTENCE)
    return tmp_path


def opened(world: Path, file: str, length: int = 8, **options: Any) -> TokenDataset:
    return TextData(text=file, length=length, **options).open(world, world)


def random_tokens(seed: int, sequences: int = 4, length: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 10_000, (sequences, length))


def test_a_text_is_cut_to_sequences_of_one_length(world: Path) -> None:
    tokens = opened(world, "text.txt").tokens
    assert tokens.shape == (len(SENTENCE) // 8, 8)
    assert "".join(LETTERS[token] for token in tokens.flat) == SENTENCE[: tokens.size]


def test_documents_of_a_jsonl_are_parted_by_the_end_of_text(world: Path) -> None:
    lines = [json.dumps({"text": "abc"}), "", json.dumps({"text": "de"})]
    with gzip.open(world / "text.jsonl.gz", "wt") as file:
        file.write("\n".join(lines) + "\n")
    end = len(LETTERS)
    assert opened(world, "text.jsonl.gz", 6).tokens.tolist() == [[0, 1, 2, end, 3, 4]]


def test_every_sequence_begins_as_the_tokenizer_begins_a_text(world: Path) -> None:
    open_with_bos(world)
    data = opened(world, "text.txt")
    assert (data.tokens[:, 0] == len(LETTERS)).all()
    assert "".join(LETTERS[token] for token in data.tokens[:, 1:].flat) == SENTENCE[: len(data) * 7]
    assert data.name == "text:text.txt, context 8, stride 7, BOS"
    without = opened(world, "text.txt", bos=False)
    assert without.name == "text:text.txt, context 8, stride 8"
    assert without.digest != data.digest


def test_every_document_begins_as_the_tokenizer_begins_it(world: Path) -> None:
    """Also those behind the first one; where a sequence begins with a document, it opens once."""
    open_with_bos(world)
    (world / "text.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in ("abc", "de", "fgh")))
    end = len(LETTERS)
    data = opened(world, "text.jsonl", 6)
    assert data.tokens.tolist() == [[end, 0, 1, 2, end, end], [end, 3, 4, end, end, 5]]
    assert opened(world, "text.jsonl", 5).tokens.tolist() == [[end, 0, 1, 2, end], [end, 3, 4, end, end]]
    assert opened(world, "text.jsonl", 5, bos=False).tokens.tolist() == [[0, 1, 2, end, 3], [4, end, 5, 6, 7]]


def test_sequences_of_one_token_are_a_fault_of_the_plan(world: Path) -> None:
    message = "length: a sequence of one token leaves nothing to predict; 2 or more would do"
    assert list(TextData(text="text.txt", length=1).faults(world)) == [f"text: {message}"]
    with pytest.raises(DataError, match=f"text.txt: {message}"):
        opened(world, "text.txt", 1)


def test_a_token_that_is_not_there_opens_nothing(world: Path) -> None:
    assert opened(world, "text.txt").name == "text:text.txt, context 8, stride 8"
    with pytest.raises(DataError, match=r"text\.txt: bos: the tokenizer has no token that opens a text"):
        opened(world, "text.txt", bos=True)


UNFIT = {
    "empty": ("text.txt", b"", r"text\.txt: holds no text"),
    "short": ("text.txt", b"abcde", r"text\.txt: 5 tokens do not fill one sequence of 8; shorter would do"),
    "not utf-8": ("text.txt", b"caf\xe9 au lait", r"text\.txt: cannot be read as text \('utf-8' codec"),
    "no json": ("text.jsonl", b'{"text": "a"}\n{"text', r"text\.jsonl:2: no JSON \(Unterminated"),
    "no field": ("text.jsonl", b'{"txt": "a"}', r"text\.jsonl:1: no JSON object with a 'text'; did you mean 'txt'\?"),
    "no object": ("text.jsonl", b"[1]", r"text\.jsonl:1: no JSON object with a 'text'$"),
    "no text": ("text.jsonl", b'{"text": null}', r"text\.jsonl:1: 'text' is null, no text"),
    "no gzip": ("text.txt.gz", b"plain", r"text\.txt\.gz: cannot be read as text \(Not a gzipped file"),
    "cut gzip": ("text.txt.gz", gzip.compress(b"abc" * 99, mtime=0)[:-9], r"text\.txt\.gz: cannot be read as text"),
    "spoilt gzip": ("text.txt.gz", gzip.compress(b"", mtime=0)[:10] + b"\xff" * 9, r"text\.txt\.gz: cannot be read"),
}


@pytest.mark.parametrize(("file", "content", "line"), list(UNFIT.values()), ids=list(UNFIT))
def test_a_file_that_cannot_serve_is_named(world: Path, file: str, content: bytes, line: str) -> None:
    (world / file).write_bytes(content)
    with pytest.raises(DataError, match=line):
        opened(world, file)


def test_a_folder_without_tokenizer_or_with_half_of_one_is_named(world: Path) -> None:
    whole = (world / "tokenizer.json").read_text()
    (world / "tokenizer.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="no tokenizer can be read here"):
        opened(world, "text.txt")
    (world / "bare").mkdir()
    with pytest.raises(DataError, match="bare: no tokenizer can be read here"):
        TextData(text="text.txt").open(world, world / "bare")


def test_a_tokenizer_of_another_model_is_noticed(tmp_path: Path) -> None:
    model = LanguageModel(write_folder(tmp_path))
    with pytest.raises(
        ModelError, match="token 128 is none of the 128 that the model knows; is the tokenizer another mo"
    ):
        model.walk(TokenDataset("text", np.full((1, 4), 128)).batch(np.arange(1)).inputs["input_ids"])


def test_a_sequence_of_one_token_is_nothing_to_score(tmp_path: Path) -> None:
    model = LanguageModel(write_folder(tmp_path))
    with pytest.raises(DataError, match="one token leaves nothing to predict; length: 2 or more would do"):
        score_tokens(model, TokenDataset("text", np.zeros((3, 1), np.int64)), tmp_path, None, Progress(), "original")


def test_calibration_that_shares_13_tokens_with_evaluation_is_refused() -> None:
    evaluate, calibrate = random_tokens(1), random_tokens(2)
    refuse_overlap(TokenDataset("text", evaluate), {"calibrate": TokenDataset("text", calibrate)})
    calibrate[3, 5:17] = evaluate[1, 20:32]
    refuse_overlap(TokenDataset("text", evaluate), {"calibrate": TokenDataset("text", calibrate)})  # 12 may be chance
    calibrate[3, 5:18] = evaluate[1, 19:32]
    with pytest.raises(
        DataError, match=r"1 of 4 examples are also in data\.calibrate; .*drop_overlap: true in data\.cal"
    ):
        refuse_overlap(TokenDataset("text", evaluate), {"calibrate": TokenDataset("text", calibrate)})


PROSE = (
    "Call me Ishmael: some years ago, never mind how long precisely, having little or no money in my purse and nothing "
    "particular to interest me on shore, I thought I would sail about a little and see the watery part of the world."
)
DISGUISES = {
    "as it was": PROSE,
    "doubled spaces": PROSE.replace(" ", "  "),
    "non-breaking spaces": PROSE.replace(" ", "\u00a0"),
    "line breaks": PROSE.replace(" ", "\r\n"),
    "upper case": PROSE.upper(),
    "wide letters": "".join(chr(ord(letter) + 0xFEE0) if letter.isalpha() else letter for letter in PROSE),
    "without punctuation": PROSE.replace(",", "").replace(".", ""),
    "composed letters": PROSE.replace("i", "i\u0308"),
}


def in_bytes(*texts: str) -> TokenDataset:
    """Sequences whose tokens are all different, as those of another spelling are, and which only their text tells."""
    longest = max(len(text.encode()) for text in texts)
    rows = np.array([list(text.encode().ljust(longest, b"\n")) for text in texts])
    tokens = rows * 10**9 + np.random.default_rng(len(texts)).integers(10**9, size=rows.shape)
    return TokenDataset("text", tokens, decode=lambda rows: [bytes((r // 10**9).tolist()).decode() for r in rows])


@pytest.mark.parametrize("name", DISGUISES)
def test_a_text_is_known_again_however_it_is_spaced_and_spelled(name: str) -> None:
    original = PROSE.replace("i", "\u00ef") if name == "composed letters" else PROSE
    evaluate, calibrate = in_bytes(original), in_bytes(DISGUISES[name], "nobody ever wrote this sentence " * 9)
    with pytest.raises(DataError, match=r"1 of 1 examples are also in data\.calibrate"):
        refuse_overlap(evaluate, {"calibrate": calibrate})
    assert len(without_overlap(calibrate, evaluate)) == 1


def test_words_in_another_order_are_another_text() -> None:
    shuffled = " ".join(np.random.default_rng(0).permutation(PROSE.split()))
    assert shared_examples(in_bytes(shuffled), in_bytes(PROSE)) == 0


@pytest.mark.parametrize(("words", "shared"), [(7, 0), (8, 1)])
def test_a_short_text_is_known_again_by_eight_words_or_more(words: int, shared: int) -> None:
    """Fewer are a phrase that anybody may use; as they are spelled, token for token, they still count."""
    start = " ".join(PROSE.split()[:words])
    assert shared_examples(in_bytes(PROSE.upper()), in_bytes(start)) == shared


def test_words_are_what_is_left_of_a_text_without_spelling_and_spacing() -> None:
    assert words("\ufb01ne\u2003“STRASSE” x²—Straße_2\n") == ["fine", "strasse", "x2", "strasse", "2"]
    assert words("東京は 大きい") == list("東京は大きい")


def test_what_overlaps_can_be_left_out() -> None:
    evaluate, calibrate = TokenDataset("text", random_tokens(1)), random_tokens(2)
    calibrate[3, 5:18] = evaluate.tokens[1, 19:32]
    remaining = without_overlap(TokenDataset("text", calibrate), evaluate)
    assert np.array_equal(TokenDataset("text", calibrate[:3]).tokens, remaining.batch(np.arange(3)).inputs["input_ids"])
    refuse_overlap(evaluate, {"calibrate": remaining})
    with pytest.raises(DataError, match="every sequence shares 13 tokens in a row with the evaluation text"):
        without_overlap(evaluate, evaluate)


def test_sequences_shorter_than_13_tokens_are_compared_whole() -> None:
    short = TokenDataset("text", random_tokens(1, length=8))
    with pytest.raises(DataError, match="4 of 4 examples are also in"):
        refuse_overlap(short, {"calibrate": TokenDataset("text", random_tokens(1, length=8))})


@pytest.mark.parametrize(
    ("between", "documents"),
    [("\n\n\n", 3), ("<|endoftext|>", 3), ("\n = fox = \n", 3), ("\n\n", 1), ("\n = = fox = = \n", 1)],
    ids=["two blank lines", "end of text", "title", "one blank line", "section"],
)
def test_sequences_of_one_document_are_one_unit(world: Path, between: str, documents: int) -> None:
    """Windows of one document share their luck: as many independent units as there are documents."""
    (world / "text.txt").write_text(between.join(["abcdefgh" * 8, "ijklmnop" * 8 + "q", "rstuvwxy" * 8 + "z"]))
    data = opened(world, "text.txt", 10)
    assert data.documents is not None
    assert len(np.unique(data.documents)) == documents
    assert data.units.max() + 1 == documents


def test_each_line_of_a_jsonl_is_a_document(world: Path) -> None:
    lines = [json.dumps({"text": letter * 40}) for letter in "abc"]
    (world / "text.jsonl").write_text("\n".join(lines) + "\n")
    documents = opened(world, "text.jsonl", 8).documents
    assert documents is not None
    assert np.unique(documents).tolist() == [0, 1, 2]


def test_copies_are_one_unit_and_are_counted() -> None:
    data = TokenDataset("text", np.repeat(random_tokens(0), 50, axis=0))
    on = ScoredOn.of(data)
    assert (on.examples, on.units, on.copies) == (200, 4, 196)


def test_copies_tie_documents_together() -> None:
    tokens = random_tokens(0)[[0, 1, 2, 0]]
    data = TokenDataset("text", tokens, np.array([0, 0, 1, 1]))  # the last window of the second is the first's first
    assert data.units.tolist() == [0, 0, 0, 0]
