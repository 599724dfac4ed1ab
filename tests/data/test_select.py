"""``select``: copies and noise out, a few that stand for the rest; what was left out is counted by its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from language_world import open_with_bos, write_tokenizer
from pydantic import ValidationError

from squeeze.data import selecting
from squeeze.data.select import Select
from squeeze.data.selecting import Measured
from squeeze.data.text import TextData, TokenDataset
from squeeze.errors import DataError

LENGTH = 32


def prose(seed: int, words: int = 60) -> str:
    """Words of a few letters; two seeds have none in common but by chance."""
    random = np.random.default_rng(seed)
    letters = random.choice(list("abcdefghijklmnopqrstuvwxyz"), (words, 5))
    return " ".join("".join(word) for word in letters)


def with_a_word_changed(text: str) -> str:
    return " ".join(["other", *text.split()[1:]])


def write(folder: Path, *documents: str) -> None:
    lines = [json.dumps({"text": document}) for document in documents]
    (folder / "text.jsonl").write_text("\n".join(lines))


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A tokenizer of letters and twelve documents."""
    write_tokenizer(tmp_path)
    write(tmp_path, *(prose(seed) for seed in range(12)))
    return tmp_path


def opened(world: Path, select: dict[str, Any] | None, **more: Any) -> TokenDataset:
    chosen = None if select is None else Select(**select)
    return TextData(text="text.jsonl", length=LENGTH, select=chosen, **more).open(world, world)


def rows(data: TokenDataset) -> list[bytes]:
    return [row.tobytes() for row in data.tokens]


def test_it_chooses_among_the_very_sequences_that_the_text_gives(world: Path) -> None:
    open_with_bos(world)
    every, some = opened(world, None), opened(world, {"share": "25 %"})
    places = [rows(every).index(row) for row in rows(some)]
    assert len(some) == round(len(every) / 4)
    assert places == sorted(places)
    assert every.documents is not None
    assert some.documents is not None
    assert (every.documents[places] == some.documents).all()
    assert every.size_bytes is not None
    assert some.size_bytes is not None
    assert (every.size_bytes[places] == some.size_bytes).all()
    assert some.selection == {"sequences": len(every), "chosen": len(some), "not needed": len(every) - len(some)}


def test_without_a_share_all_that_passes_is_taken(world: Path) -> None:
    assert rows(opened(world, {})) == rows(opened(world, None))


@pytest.mark.parametrize(
    ("duplicates", "left_out"),
    [("keep", set()), ("exact", {"exact copies"}), ("near", {"exact copies", "near copies"})],
)
def test_copies_are_left_out_as_far_as_is_asked(world: Path, duplicates: str, left_out: set[str]) -> None:
    """An exact copy has the same words, however they are spaced and capitalised."""
    copy, near = prose(0).upper().replace(" ", "  ").lower(), with_a_word_changed(prose(1))
    write(world, *(prose(seed) for seed in range(4)), copy, near)
    data = opened(world, {"duplicates": duplicates})
    assert set(data.selection) - {"sequences", "chosen"} == left_out
    begun = np.bincount(data.documents, minlength=6)  # one may begin in a copy and go on in what comes behind it
    assert (begun[4] > 1) == ("exact copies" not in left_out)
    assert (begun[5] > 1) == ("near copies" not in left_out)


def test_documents_of_a_few_words_are_left_out(world: Path) -> None:
    write(world, prose(0), *(prose(seed, words=19) for seed in range(20, 26)), prose(1))
    data = opened(world, {})
    assert data.selection["short"]
    assert rows(opened(world, {"quality": "any"})) == rows(opened(world, None))


def test_sequences_full_of_signs_are_left_out(world: Path) -> None:
    write(world, " ".join(["word", *[". . ." for _ in range(60)], prose(0)]), prose(1))
    data = opened(world, {})
    texts = [example[0] for example in data.plain_texts() or []]
    assert data.selection["signs"]
    assert not [text for text in texts if text.count(".") > len(text) / 4]


def measured(data: TokenDataset) -> Measured:
    """The loss is the place in the data; the hidden states are of two clusters, the second one of one sequence."""
    hidden = np.zeros((len(data), 2), np.float32)
    hidden[len(data) // 2] = 100
    return Measured(np.arange(len(data), dtype=np.float32), hidden)


def test_the_middle_of_the_losses_stays(world: Path) -> None:
    every = opened(world, None)
    source = TextData(text="text.jsonl", length=LENGTH, select=Select(quality="loss"))
    data = source.measured(world, world, measured)
    tenth = round(len(every) / 10)
    assert abs(int(data.selection["low loss"]) - tenth) <= 1
    assert abs(int(data.selection["high loss"]) - tenth) <= 1
    assert rows(data) == rows(every)[int(data.selection["low loss"]) : -int(data.selection["high loss"])]


def test_clusters_may_be_of_what_the_original_makes_of_the_text(world: Path) -> None:
    every = opened(world, None)
    source = TextData(text="text.jsonl", length=LENGTH, samples=2, select=Select(vectors="hidden"))
    assert rows(every)[len(every) // 2] in rows(source.measured(world, world, measured))


def test_the_seed_decides_and_nothing_else(world: Path) -> None:
    one, again, other = (rows(opened(world, {"share": "20 %"}, seed=seed)) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_chance_is_asked_for_by_name(world: Path) -> None:
    data = opened(world, {"share": "20 %", "cover": "chance"})
    assert rows(data) != rows(opened(world, {"share": "20 %"}))
    assert set(rows(data)) < set(rows(opened(world, None)))


def test_what_another_role_takes_is_skipped_first(world: Path) -> None:
    others = opened(world, None, samples=10, seed=3)
    data = opened(world, {}, skip=10, seed=3)
    assert data.selection["skipped"] == 10
    assert not set(rows(others)) & set(rows(data))


def test_tokens_that_are_not_chosen_are_not_in_memory(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[type] = []

    class Watched(selecting.Candidates):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            kinds.append(type(self.tokens))

    monkeypatch.setattr(selecting, "Candidates", Watched)
    data = opened(world, {"share": "5 %"})
    assert kinds == [np.memmap]
    assert type(data.tokens) is np.ndarray


@pytest.mark.parametrize("share", ["0 %", "100 %", "250 %", "a few", 0, 5])
def test_a_share_is_a_part(share: object) -> None:
    with pytest.raises(ValidationError, match=r"more than 0 % and less than 100 % would do"):
        Select(share=share)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("select", "more", "message"),
    [
        ({"share": "0.1 %"}, {}, r"select: share: 0.1 % of 134 sequences is less than one; more would do"),
        ({}, {"samples": 500}, r"samples asks for 500; select leaves 134 of 134 sequences$"),
        ({}, {"length": 9000}, r"text.jsonl: 4319 tokens do not fill one sequence of 9000; shorter would do"),
        ({"quality": "loss"}, {}, r"select: quality: loss and vectors: hidden ask the original; a run lends it"),
    ],
)
def test_what_cannot_be_chosen_is_one_line(
    world: Path, select: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        TextData(**{"text": "text.jsonl", "length": LENGTH, "select": Select(**select)} | more).open(world, world)


def test_a_text_of_which_nothing_is_left_says_why(world: Path) -> None:
    write(world, *(prose(seed, words=15) for seed in range(4)))
    with pytest.raises(DataError, match=r"text.jsonl: select leaves none of \d+ sequences \(\d+ short\); quality: any"):
        opened(world, {})


def test_options_that_contradict_each_other_are_faults_of_the_plan(world: Path) -> None:
    both = TextData(text="text.jsonl", samples=4, select=Select(share="5 %"))
    assert list(both.faults(world)) == [
        'text: select: share: "5 %" and samples: 4 both say how many; one of them would do'
    ]
    chance = TextData(text="text.jsonl", select=Select(cover="chance", vectors="hidden"))
    (line,) = chance.faults(world)
    assert line.endswith("cover: chance makes none; leave it out")
