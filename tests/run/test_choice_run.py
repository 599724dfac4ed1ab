"""Metrics that bring data of their own, through a whole run: several in one plan, each on its own, each told apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from language_world import write_folder, write_tokenizer
from tiny import faults, write_world

from squeeze.api import compress, load
from squeeze.report.html import html_report
from squeeze.report.markdown import markdown_report
from squeeze.run.reporting import report_of

PLAN = """\
model: {hf: ./model}
data:
  calibrate: {text: text.txt, length: 16}
metrics:
  - choice: {data: {pairs: pairs.jsonl}}
  - choice: {data: {questions: asked.jsonl}}
  - choice_norm: {data: {questions: asked.jsonl}}
  - last_word: {data: {last_words: last.jsonl, samples: 3}, called: few}
  - size
budget: {"choice:pairs": "-50 points"}
passes: [{pass: rtn, bits: 2, group_size: 16}]
"""
LINES: dict[str, list[dict[str, Any]]] = {
    "pairs.jsonl": [
        {"sentence_good": f"a cat sat on {word}", "sentence_bad": f"on {word} sat cat a"} for word in "xyz"
    ],
    "asked.jsonl": [{"question": f"why {word}?", "options": ["so", "because it is"], "answer": 1} for word in "xyzuvw"],
    "last.jsonl": [{"text": f"some {word} words and more"} for word in "xyzu"],
}


@pytest.fixture
def world(tmp_path: Path) -> Path:
    write_tokenizer(write_folder(tmp_path / "model"))
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 4)
    for name, entries in LINES.items():
        (tmp_path / name).write_text("\n".join(json.dumps(entry) for entry in entries))
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path


def test_each_metric_is_scored_on_its_own_data_and_says_so(world: Path) -> None:
    run = compress(load(world / "plan.yaml"), store=world / "store")
    original, rounded = run.ledger.rows
    labels = ["choice:pairs", "choice:asked", "choice_norm:asked", "last_word:few", "size_bytes"]
    assert list(rounded.scores) == labels
    on = {label: rounded.scores[label].scored_on for label in labels[:4]}
    assert [data.examples for data in on.values() if data] == [3, 6, 6, 3]
    assert on["choice:asked"] == on["choice_norm:asked"] != on["choice:pairs"]
    assert all(original.scores[label].scored_on == data for label, data in on.items())
    delta = rounded.scores["choice:asked"].to_original
    assert delta is not None
    assert delta.difference_interval is not None
    assert run.judgements[0][1].value == rounded.scores["choice:pairs"].to_original.difference  # type: ignore[union-attr]
    report = report_of(run, world)
    assert report["plan"]["metrics"][0] == {"choice": {"data": {"pairs": "pairs.jsonl"}, "called": None}}
    for page in (markdown_report(report), html_report(report)):
        assert "6 examples of questions:asked.jsonl" in page


def test_what_was_scored_is_not_scored_again(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compress(load(world / "plan.yaml"), store=world / "store")

    def fail(*_: object) -> None:
        raise AssertionError("scored twice")

    monkeypatch.setattr("squeeze.evaluate.evidence.endings.score_endings", fail)
    again = compress(load(world / "plan.yaml"), store=world / "store")
    assert again.ledger.to_json(timings=False) == first.ledger.to_json(timings=False)


def test_calibration_on_the_questions_is_refused(world: Path) -> None:
    question = LINES["last.jsonl"][0]["text"]
    (world / "text.txt").write_text(f"the quick brown fox jumps. {question} and so on, for long enough.")
    (world / "plan.yaml").write_text(PLAN.replace("samples: 3", "samples: 4"))
    with pytest.raises(Exception, match=r"last_word:few: \d of 4 examples are also in data\.calibrate; .*drop_overlap"):
        compress(load(world / "plan.yaml"), store=world / "store")


UNFIT = {
    "no data": ("{data: {pairs: pairs.jsonl}}", "{}", "option 'data' is missing"),
    "no source": ("{pairs: pairs.jsonl}", "{pears: p}", "names no data source; did you mean 'pairs'?"),
    "no file": ("pairs.jsonl", "gone.jsonl", "gone.jsonl does not exist"),
    "other data": ("{pairs: pairs.jsonl}", "{text: text.txt}", "'text' is nothing that choice is asked of; pairs or"),
    "twice": ("pairs.jsonl}}", "pairs.jsonl}, called: asked}", "'choice:asked' stands twice"),
    "unknown": ("pairs.jsonl}}", "pairs.jsonl}, norm: true}", "choice: unknown option 'norm'"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_cannot_be_asked_is_found_before_the_run(world: Path, name: str) -> None:
    old, new, message = UNFIT[name]
    (world / "plan.yaml").write_text(PLAN.replace(old, new, 1).replace('budget: {"choice:pairs": "-50 points"}\n', ""))
    assert any(message in fault for fault in faults(world / "plan.yaml")), faults(world / "plan.yaml")


def test_a_classifier_is_asked_nothing(world: Path) -> None:
    write_world(world)
    plan = PLAN.replace("{hf: ./model}", '{module: "tiny:network", weights: tiny.safetensors, input: [3, 6, 6]}')
    (world / "plan.yaml").write_text(plan)
    assert any("choice is of language models; this is a torch model" in fault for fault in faults(world / "plan.yaml"))
