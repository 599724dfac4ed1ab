"""Data that a run chooses or lets the original write: kept, reported, the same for the same seed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from language_world import LETTERS, open_with_bos, write_folder, write_tokenizer
from tiny import PLAN as TINY_PLAN
from tiny import Killed, faults, squeeze, write_plan, write_world

from squeeze.api import compress, load
from squeeze.data.selecting import Selection
from squeeze.data.text import TextData, TokenDataset
from squeeze.errors import DataError
from squeeze.models.language.continued import Sampling, continued, writer_of
from squeeze.models.language.language_model import LanguageModel
from squeeze.plan.plan import Branch
from squeeze.report.facts import fact_lines
from squeeze.report.shape import as_report
from squeeze.run.lender import Lender
from squeeze.run.packing import package_inputs
from squeeze.run.reporting import report_of
from squeeze.store import Store

SELECT = 'text: train.jsonl, length: 16, select: {share: "25 %", quality: loss, vectors: hidden}'
WRITE = "synthesize: 40, length: 16, prompts: prompts.txt, seed: 1"
PLAN = f"""\
model: {{hf: ./model}}
data:
  calibrate: {{{SELECT}}}
  evaluate: {{text: evaluate.txt, length: 16}}
metrics: [perplexity, size]
passes: [{{pass: rtn, bits: 4, group_size: 16}}]
threads: 1
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a tokenizer of letters, texts, prompts."""
    folder = tmp_path_factory.mktemp("lent")
    write_tokenizer(write_folder(folder / "model", vocab_size=len(LETTERS) + 1))
    open_with_bos(folder / "model")
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("abcdefgh"), 4)) for _ in range(400)]
    documents = [" ".join(random.choice(words, 30)) for _ in range(8)]
    (folder / "train.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in documents))
    (folder / "evaluate.txt").write_text("".join(random.choice(list("ijklmnop "), 400)))
    (folder / "prompts.txt").write_text("once\n\nand then\n")
    return folder


@pytest.fixture
def world(made: Path) -> Path:
    write_plan(made, PLAN)
    return made


def lender(world: Path, store: Path, *changes: tuple[str, str]) -> Lender:
    return Lender(load(write_plan(world, PLAN, *changes)), store=Store(store))


def written(world: Path, store: Path, source: str = WRITE) -> TokenDataset:
    data = lender(world, store, (SELECT, source)).open("calibrate")
    assert isinstance(data, TokenDataset)
    return data


def test_a_run_chooses_once_and_tells_what_it_left_out(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = compress(load(world / "plan.yaml"), store=tmp_path / "store")
    fact = result.ledger.original.facts["data.calibrate"]
    assert fact["chosen"] == round(fact["sequences"] / 4)
    assert fact["sequences"] == sum(count for reason, count in fact.items() if reason != "sequences")
    (row, *_) = as_report(report_of(result, tmp_path)).rows
    assert f"chosen: {fact['chosen']}" in dict(fact_lines(row))["data.calibrate"]
    packed = package_inputs(result.plan, Branch("desk", None, ()), result.ledger, result.models[None], None)
    assert packed.provenance["data.calibrate"] == fact

    def chosen_again(*_: object) -> None:
        raise AssertionError("chosen once already")

    monkeypatch.setattr(Selection, "of", chosen_again)
    again = compress(load(world / "plan.yaml"), store=tmp_path / "store")
    assert again.ledger.original.facts == result.ledger.original.facts


def test_evaluation_text_is_cut_once_for_check_and_run(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut: list[str] = []
    measured = TextData.measured

    def noted(source: TextData, *args: Any) -> TokenDataset:
        cut.append(source.text)
        return measured(source, *args)

    monkeypatch.setattr(TextData, "measured", noted)
    write_plan(world, PLAN, (SELECT, "text: train.jsonl, length: 16"))
    compress(load(world / "plan.yaml"), store=tmp_path / "store")
    assert cut.count("evaluate.txt") == 1


def test_a_plan_without_a_choice_tells_nothing(world: Path, tmp_path: Path) -> None:
    write_plan(world, PLAN, (SELECT, "text: train.jsonl, length: 16"))
    result = compress(load(world / "plan.yaml"), store=tmp_path / "store")
    assert not [name for name in result.ledger.original.facts if name.startswith("data.")]


def test_the_data_command_prints_what_each_role_holds(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert squeeze("data", world / "plan.yaml", "--store", tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("evaluate: ")
    assert "calibrate: 20 examples of text:train.jsonl, context 16, stride 15, BOS" in lines
    assert "        20  chosen" in lines
    assert squeeze("data", world / "plan.yaml", "--store", tmp_path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["calibrate"]["selection"]["chosen"] == 20


def test_the_original_writes_as_many_sequences_as_are_asked_for(world: Path, tmp_path: Path) -> None:
    data = written(world, tmp_path / "store")
    assert data.tokens.shape == (40, 16)
    assert data.selection["written by the original"] == 40
    begun = [text[0].lstrip() for text in data.plain_texts() or []]
    assert any(text.startswith(("once", "and then")) for text in begun)


def test_the_same_seed_writes_the_same_and_another_seed_does_not(world: Path, tmp_path: Path) -> None:
    one = written(world, tmp_path / "one")
    assert written(world, tmp_path / "two").digest == one.digest
    assert written(world, tmp_path / "two", WRITE.replace("seed: 1", "seed: 2")).digest != one.digest
    assert written(world, tmp_path / "two", f"{WRITE}, temperature: 0.1").digest != one.digest


def test_a_killed_run_goes_on_writing_where_it_was(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = WRITE.replace("40", "100")
    whole = written(world, tmp_path / "whole", many)
    cut = lender(world, tmp_path / "store", (SELECT, many))
    cut.progress = cut.store.progress = Killed(after=1)
    with pytest.raises(KeyboardInterrupt):
        cut.open("calibrate")
    seeds: list[int] = []

    def counted(*given: object) -> list[list[int]]:
        seeds.append(given[-1])  # type: ignore[arg-type]
        return continued(*given)  # type: ignore[arg-type]

    monkeypatch.setattr("squeeze.run.written.continued", counted)
    assert written(world, tmp_path / "store", many).digest == whole.digest
    resumed = len(seeds)
    written(world, tmp_path / "anew", many)
    assert resumed == len(seeds) - resumed - 2  # the batch that was finished, and the one that was under way


def test_what_the_original_writes_may_be_chosen_from(world: Path, tmp_path: Path) -> None:
    data = written(world, tmp_path / "store", f'{WRITE}, select: {{share: "50 %", quality: any, duplicates: keep}}')
    assert len(data) == 20
    assert data.selection["sequences"] == 40


def test_a_model_begins_a_text_itself(world: Path, tmp_path: Path) -> None:
    data = written(world, tmp_path / "store", "synthesize: 3, length: 16")
    assert len(data) == 3
    assert data.selection["prompts"] == "none"


def test_a_prompt_is_continued_as_if_it_were_alone(world: Path) -> None:
    """Beside a longer one it is filled up in front, which nothing may look at."""
    module = writer_of(LanguageModel(world / "model"))
    likeliest = Sampling(temperature=1e-4, top_p=1.0)
    short, long = [3, 4, 5], [1, 2, 3, 4, 5, 6, 7]
    (alone,) = continued(module, [short], 3 + 5, likeliest, 0)
    beside, _ = continued(module, [short, long], 7 + 5, likeliest, 0)
    assert alone == beside


def test_a_text_ends_before_the_token_that_ends_it(world: Path) -> None:
    module = writer_of(LanguageModel(world / "model"))
    (free,) = continued(module, [[1]], 24, Sampling(1.0, 1.0), 5)
    end = free[10]
    (ended,) = continued(module, [[1]], 24, Sampling(1.0, 1.0, (end,)), 5)
    assert ended == free[: free.index(end, 1)]


EVALUATE = "evaluate: {text: evaluate.txt, length: 16}"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (EVALUATE, 'evaluate: {text: evaluate.txt, length: 16, select: {share: "5 %"}}', r"what is scored on is not"),
        (EVALUATE, "evaluate: {synthesize: 4, length: 16}", r"synthesize: a score on text by the original proves noth"),
        ('share: "25 %"', "share: 0 %", r"text: select.share is '0 %'; more than 0 % and less than 100 % would do"),
        ('share: "25 %"', "share: 120 %", r"text: select.share is '120 %'; more than 0 % and less than 100 %"),
        ("quality: loss", "quality: best", r"text: select.quality is 'best'; input should be 'text', 'loss' or 'any'"),
        ("share", "shares", r"text: unknown option 'select.shares'"),
        (SELECT, "synthesize: 0", r"synthesize: synthesize is 0; input should be greater than 0"),
        (SELECT, f"{WRITE}, top_p: 1.5", r"synthesize: top_p is 1.5; input should be less than or equal to 1"),
        (SELECT, "synthesize: 4, prompts: gone.txt", r"gone.txt does not exist"),
    ],
)
def test_a_wrong_choice_is_a_fault_of_the_plan(world: Path, old: str, new: str, message: str) -> None:
    write_plan(world, PLAN, (old, new))
    (fault,) = faults(world / "plan.yaml")
    assert re.search(message, fault), fault


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "{synthesize: 4}",
            r"data\.calibrate: synthesize: it writes the text, and the original is none of the language models; "
            r"{text: file} would do",
        ),
        (
            "{text: text.txt, select: {quality: loss}}",
            r"data\.calibrate: select: quality: loss and vectors: hidden ask it, and the original is none of the "
            r"language models; quality: text and vectors: words would do",
        ),
    ],
)
def test_a_classifier_is_not_asked_for_text(tmp_path: Path, source: str, message: str) -> None:
    write_world(tmp_path)
    (tmp_path / "text.txt").write_text("a text")
    plan = write_plan(tmp_path, TINY_PLAN, ("{npz: calibrate.npz}", source))
    (fault,) = faults(plan)
    assert re.search(message, fault), fault


def test_writing_wants_memory_for_all_weights(world: Path) -> None:
    plan = write_plan(world, PLAN.replace("metrics:", "memory: 100MB\nmetrics:"), (SELECT, WRITE))
    assert any("synthesize: the original writes with all weights in memory, 45" in fault for fault in faults(plan))


@pytest.mark.parametrize(
    ("prompts", "message"),
    [("\n \n", r"empty\.txt: prompts: holds none; a line each would do"), ("a" * 16, r"prompts: one has 17 tokens")],
)
def test_prompts_that_cannot_be_continued_are_one_line(world: Path, tmp_path: Path, prompts: str, message: str) -> None:
    (world / "empty.txt").write_text(prompts)
    with pytest.raises(DataError, match=message):
        written(world, tmp_path / "store", WRITE.replace("prompts.txt", "empty.txt"))


def test_texts_that_end_at_once_are_one_line(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("squeeze.run.written.continued", lambda _module, prompts, *_: [[] for _ in prompts])
    with pytest.raises(DataError, match=r"1280 texts fill 0 of 640 tokens, so early does the model end its texts"):
        written(world, tmp_path / "store")
