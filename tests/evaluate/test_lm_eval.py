"""The harness asks our models: its own task files, its own standard errors, and what is unpaired says so."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language_world import write_folder, write_tokenizer
from tiny import faults

from squeeze.api import compress, load
from squeeze.errors import DataError, PlanError
from squeeze.evaluate.lm_eval import ABSENT, LmEval
from squeeze.ledger import Estimated, Measured, ScoredOn, scores
from squeeze.models.language.language_model import LanguageModel
from squeeze.plan.plan import Plan
from squeeze.progress import Progress
from squeeze.report.markdown import markdown_report
from squeeze.run.opened import open_all
from squeeze.run.reporting import report_of

needs_harness = [
    pytest.mark.skipif(not find_spec("lm_eval"), reason="lm-eval is not installed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the harness's own
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # data files that the datasets library leaves open
]
TASK = """\
task: letters
dataset_path: json
dataset_kwargs: {data_files: {test: asked.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{options}}"
doc_to_target: answer
metric_list: [{metric: acc}]
"""
PLAN = """\
model: {hf: ./model}
metrics: [{lm_eval: {task: tasks/letters.yaml}}]
passes: [{pass: rtn, bits: 2, group_size: 16}]
"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write_tokenizer(write_folder(tmp_path / "model"))
    (tmp_path / "tasks").mkdir()
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("abcdefgh"), 5)) for _ in range(60)]
    questions = [{"question": w, "options": [a, b], "answer": 0} for w, a, b in np.reshape(words, (20, 3))]
    (tmp_path / "tasks/asked.jsonl").write_text("\n".join(map(json.dumps, questions)))
    (tmp_path / "tasks/letters.yaml").write_text(TASK)
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path


def harness(test: Any) -> Any:
    for mark in needs_harness:
        test = mark(test)
    return test


@harness
def test_a_task_of_ones_own_is_asked_and_its_standard_error_kept(world: Path) -> None:
    model = LanguageModel(world / "model")
    result = LmEval(task="./tasks").estimate(model, world, Progress())
    right = []
    for line in (world / "tasks/asked.jsonl").read_text().splitlines():
        entry = json.loads(line)
        tokens = [[ord(c) - 97 if c != " " else 26 for c in f"{entry['question']} {o}"] for o in entry["options"]]
        (_, logits), *_ = model.logits(torch.tensor(tokens))
        log_p = logits[:, 4:-1].log_softmax(-1).gather(-1, torch.tensor(tokens)[:, 5:, None])[..., 0].sum(-1)
        right.append(bool(log_p[0] > log_p[1]))
    assert result.value == pytest.approx(np.mean(right))
    assert result.standard_error == pytest.approx(np.std(right, ddof=1) / np.sqrt(len(right)))
    assert result.examples == 20


@harness
def test_the_row_says_that_it_is_unpaired(world: Path) -> None:
    run = compress(load(world / "plan.yaml"), store=world / "store")
    score = run.ledger.rows[1].scores["lm_eval:letters:acc"]
    assert score.to_original is not None
    assert not score.to_original.paired
    assert score.scored_on is not None
    assert score.scored_on.examples == 20
    assert "unpaired" in markdown_report(report_of(run, world))


def with_calibration(world: Path, text: str) -> Plan:
    (world / "text.txt").write_text(text)
    (world / "plan.yaml").write_text(f"{PLAN}data: {{calibrate: {{text: text.txt, length: 60}}}}\n")
    return load(world / "plan.yaml")


@harness
def test_what_a_task_asks_must_not_stand_in_calibration_text(world: Path) -> None:
    question = "when does the first train leave for the harbour on sundays"
    entry = json.dumps({"question": question.upper(), "options": ["at six", "never"], "answer": 0})
    (world / "tasks/asked.jsonl").write_text(f"{entry}\n")
    assert LmEval(task="./tasks").documents(world).texts == [[question.upper(), "at six", "never"]]
    with pytest.raises(PlanError, match=r"lm_eval:letters:acc: 1 of 1 examples are also in data\.calibrate; "):
        open_all(with_calibration(world, f"{question} " * 3), {})
    assert open_all(with_calibration(world, "abcdefgh " * 30), {}).warnings == []


def test_a_task_that_cannot_be_read_is_said_in_the_report(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unread(*_: object) -> None:
        raise DataError("lm-eval cannot read it without the network (offline)")

    monkeypatch.setattr(LmEval, "documents", unread)
    opened = open_all(with_calibration(world, "abcdefgh " * 30), {})
    assert opened.warnings == [
        "lm_eval:letters:acc: not compared with data.calibrate: lm-eval cannot read it without the network (offline)"
    ]
    assert open_all(load(world / "plan.yaml", ["data={}"]), {}).warnings == []  # nothing to compare it with


UNFIT = {
    "no metric": ("acc_norm", TASK, r"the task gives no acc_norm; it gives acc"),
    "generates": ("acc", TASK.replace("multiple_choice", "generate_until"), "a task whose answers are generated"),
    "rolls": ("acc", TASK.replace("multiple_choice", "loglikelihood_rolling"), "a task of perplexity"),
    "no data": ("acc", TASK.replace("asked.jsonl", "gone.jsonl"), "lm-eval cannot ask it"),
    "no task": ("acc", "[1, 2]", "lm-eval cannot ask it"),
}


@harness
@pytest.mark.parametrize("name", UNFIT)
def test_a_task_that_cannot_be_asked_is_one_line(world: Path, name: str) -> None:
    metric, task, message = UNFIT[name]
    (world / "tasks/letters.yaml").write_text(task)
    with pytest.raises(DataError, match=message):
        LmEval(task="tasks/letters.yaml", metric=metric).estimate(LanguageModel(world / "model"), world, Progress())


def test_a_folder_of_several_tasks_asks_for_one(world: Path) -> None:
    (world / "tasks/more.yml").write_text(TASK)
    with pytest.raises(DataError, match=r"tasks: holds 2 task files \(letters\.yaml, more\.yml\); name one of them"):
        LmEval(task="./tasks").cache_inputs(world)


def test_what_is_missing_is_found_before_the_run(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("squeeze.evaluate.lm_eval.find_spec", lambda _: None)
    (world / "plan.yaml").write_text(PLAN.replace("letters.yaml", "gone.yaml"))
    messages = " ".join(faults(world / "plan.yaml"))
    assert ABSENT in messages
    assert "gone.yaml does not exist" in messages


def test_two_estimates_are_compared_by_their_standard_errors() -> None:
    metric, on = LmEval(task="t"), ScoredOn("t", "0", 100)
    models = [Measured(None, {}, None, {}, {metric.label: Estimated(v, e, on)}) for v, e in ((0.5, 0.03), (0.6, 0.04))]
    score = scores([metric], None, models[1], models[0], models[0])[metric.label]
    assert score.interval == pytest.approx((0.6 - 1.96 * 0.04, 0.6 + 1.96 * 0.04), abs=1e-4)
    assert score.to_original is not None
    assert score.to_original.difference_interval == pytest.approx((0.1 - 1.96 * 0.05, 0.1 + 1.96 * 0.05), abs=1e-4)
    assert score.to_original.verdict == "better"
    assert scores([metric], None, models[0], models[0], models[0])[metric.label].to_original.verdict == "same"  # type: ignore[union-attr]
    other = Measured(None, {}, None, {}, {metric.label: Estimated(0.5, 0.1, ScoredOn("t", "1", 100))})
    with pytest.raises(DataError, match="two scores on different data cannot be compared"):
        scores([metric], None, other, models[0], models[0])
