"""How fast a language model reads and writes stands in the ledger, beside the original as float32."""

from __future__ import annotations

from pathlib import Path

import pytest
from language_world import write_folder, write_tokenizer
from tiny import faults, write_plan, write_world

from squeeze.api import compress, load
from squeeze.progress import Progress
from squeeze.report.markdown import markdown_report
from squeeze.run.reporting import report_of

PLAN = """\
model: {hf: ./model}
metrics:
  - size
  - prefill: {prompt: 12, seconds: 0.05}
  - decode: {prompt: 4, new: 5, seconds: 0.05}
budget: {decode: "<= 100000 %"}
passes: [{pass: rtn, bits: 4, group_size: 32}]
targets: [{target: cpu, passes: [{pass: export_onnx}]}]
"""


@pytest.fixture
def world(tmp_path: Path) -> Path:
    write_tokenizer(write_folder(tmp_path / "model", max_position_embeddings=64))
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path


def test_artifacts_are_timed_beside_the_float_original(world: Path) -> None:
    run = compress(load(world / "plan.yaml"), store=world / "store")
    original, rounded, exported, packed = run.ledger.rows
    assert not original.timings
    assert not rounded.timings  # walked block by block: nothing that would write
    for row in (exported, packed):
        assert set(row.timings) == {"prefill", "decode"}
        assert row.timings["decode"].to_original is not None
        timing = row.measured["decode"]
        assert row.timings["decode"].interval is not None
        low, high = row.timings["decode"].interval
        assert low <= row.timings["decode"].value <= high
        assert 6 <= timing["sessions"] <= 24
        assert timing["host_spread"] > 0
        assert (timing["prompt"], timing["new"], timing["threads"]) == (4, 5, 1)
        assert row.measured["prefill"]["prompt"] == 12
    assert [outcomes.outcome for _, outcomes in run.judgements] == ["kept"]
    assert "decode" in markdown_report(report_of(run, world))


class Recorded(Progress):
    """Which work was tracked."""

    def __init__(self) -> None:
        self.tracked: list[str] = []

    def track(self, items, what, total=None):  # type: ignore[no-untyped-def]
        self.tracked.append(what)
        yield from items


def test_a_target_that_ships_what_the_last_pass_left_is_not_scored_a_second_time(world: Path) -> None:
    """The files are the same and so is the runtime; of a large model a second scoring takes minutes."""
    (world / "text.txt").write_text("a cat sat on a mat and a dog sat on a cat " * 4)
    metrics = "metrics=[perplexity, kl]", "data={evaluate: {text: text.txt, length: 16}}", "budget={}"
    recorded = Recorded()
    run = compress(load(world / "plan.yaml", metrics), store=world / "store", progress=recorded)
    assert "score export_onnx" in recorded.tracked
    assert "score cpu" not in recorded.tracked
    exported, packed = run.ledger.rows[-2:]
    assert packed.scores["kl"].value == exported.scores["kl"].value > 0
    recorded.tracked.clear()
    genai = "targets=[{target: genai, passes: [{pass: export_onnx}]}]"
    compress(load(world / "plan.yaml", (*metrics, genai)), store=world / "store", progress=recorded)
    assert "score genai" in recorded.tracked, "another runtime answers by itself"


UNFIT = {
    "metrics=[latency]": "latency is of batches; a language model is timed as it reads and writes: prefill, decode",
    "metrics=[{decode: {prompt: 32}}]": "decode: 65 tokens are more than the 64 that the model reads",
    "metrics=[decode]; targets=[]": "decode times the files that a target writes; the plan names no target",
    "metrics=[prefill]; memory=100MB": "prefill loads the original as float32: ",
    "metrics=[{decode: {new: 0}}]": "decode: new is 0; input should be greater than 0",
    "metrics=[{prefill: {tokens: 3}}]": "prefill: unknown option 'tokens'; there is prompt, seconds, sessions",
}


@pytest.mark.parametrize("settings", UNFIT)
def test_what_cannot_be_timed_is_told_beforehand(world: Path, settings: str) -> None:
    messages = faults(world / "plan.yaml", *settings.split("; "), "budget={}")
    assert any(UNFIT[settings] in line for line in messages), messages


def test_other_models_do_not_write(tmp_path: Path) -> None:
    messages = faults(write_plan(write_world(tmp_path)), "metrics=[decode]")
    assert any("decode is of language models; this is a torch model" in line for line in messages), messages
