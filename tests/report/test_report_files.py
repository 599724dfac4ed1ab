"""Writing and reading the report's files."""

from __future__ import annotations

import os

import numpy as np
import pytest
import yaml

from squeeze.errors import SqueezeError, UsageError
from squeeze.report import write
from squeeze.report.reproduce import plan_yaml
from squeeze.report.shape import as_report
from squeeze.report.write import read_report, write_reports


def test_four_files_are_written_and_nothing_else(report, tmp_path):
    paths = write_reports(report, tmp_path / "new" / "out")
    assert set(paths) == {"json", "markdown", "html", "junit"}
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == sorted(p.name for p in paths.values())
    assert read_report(tmp_path / "new" / "out") == report


def test_a_report_that_cannot_be_drawn_leaves_the_old_one_whole(report, tmp_path):
    before = {path: path.read_bytes() for path in write_reports(report, tmp_path).values()}
    report["ledger"]["rows"][0]["scores"]["top1"]["value"] = "much"
    with pytest.raises(ValueError, match="value"):
        write_reports(report, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_write_that_fails_halfway_leaves_no_piece_behind(report, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    write_reports(report, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.setattr(write.Path, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_reports(report, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_an_absent_report_names_the_command_that_writes_one(tmp_path):
    with pytest.raises(UsageError, match=r"no report.json there; squeeze run PLAN --out .* would write one"):
        read_report(tmp_path)
    with pytest.raises(UsageError, match=r"no report\.json there"):
        read_report(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"schema": 1, "name": "x", "led', r"report.json: not a whole report \(.*\); run the plan again"),
        (b"\xff\xfe\x00", "not a whole report"),
        (b"[]", r"report schema None; this squeeze reads 1"),
        (b'{"schema": 2}', r"report schema 2; this squeeze reads 1"),
        (b'{"schema": 1}', r"report.json: name: field required; run the plan again"),
        (b'{"schema": 1, "name": "x", "ledger": {"rows": [{"form": "torch"}]}}', r"ledger.rows.0.name: field required"),
        (b'{"schema": 1, "name": "x", "seconds": "long"}', r"seconds: input should be a valid number"),
    ],
    ids=["cut short", "not text", "a list", "later", "no name", "row without name", "wrong kind"],
)
def test_a_damaged_report_is_one_clear_line(tmp_path, content, message):
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(SqueezeError, match=message) as caught:
        read_report(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_ledger_s_own_json_is_what_a_report_reads():
    """The two shapes are written down apart; this is what keeps them the same."""
    from squeeze.algorithms.stats import Interval
    from squeeze.evaluate.counts import SizeBytes
    from squeeze.evaluate.latency import Paired
    from squeeze.evaluate.metrics import Kl, Latency, Top1
    from squeeze.ledger import Ledger, Measured, Row, ScoredOn, scores, timed_score

    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(64, 5)), generator.integers(0, 5, 64)
    on = ScoredOn("made-up", "00" * 32, 64)
    old = Measured(logits, {"size_bytes": 1000}, on)
    new = Measured(logits + generator.normal(size=(64, 5)), {"size_bytes": 300}, on)
    metrics = [Top1(), Kl(), SizeBytes()]
    paired = Paired(0.5, 1.0, 0.5, Interval(0.4, 0.6), 20)
    timings = {"latency": timed_score(Latency(), paired, paired)}
    first = Row("original", None, "torch", "k", {}, scores(metrics, labels, old, old, None))
    second = Row("quantize", "cpu", "onnx", "k", {}, scores(metrics, labels, new, old, old), timings=timings)
    values = Ledger(on, [first, second]).to_json()
    read = as_report({"schema": 1, "name": "x", "ledger": values}).ledger.model_dump()
    assert read["scored_on"] == values["scored_on"]
    for row, written in zip(read["rows"], values["rows"], strict=True):
        assert row["scores"] == written["scores"]
        assert row["timings"] == written["timings"]


def test_names_with_escape_codes_or_half_letters_are_shown_without_them(report, tmp_path):
    """A terminal acts on ``report.md`` as it is printed, and half a surrogate pair cannot be written at all."""
    report["name"], report["ledger"]["rows"][1]["name"] = "a\x1b]0;x\x07b", "\ud800\u202e\x9b2J"
    written = write_reports(report, tmp_path)
    for path in written.values():
        assert all(letter.isprintable() for letter in path.read_text().replace("\n", "")), path.name
    assert "a\ufffd]0;x\ufffdb" in written["markdown"].read_text()


def test_a_plan_with_control_letters_is_shown_escaped_and_reads_back_the_same(report):
    report["plan"] = {"name": "a\u202eb \u00e9\x1b[2J"}
    text = plan_yaml(as_report(report))
    assert all(map(str.isprintable, text.split("\n")))
    assert yaml.safe_load(text) == report["plan"]


def test_a_pipe_or_a_device_is_no_report_and_nobody_waits_for_one(tmp_path):
    os.mkfifo(tmp_path / "report.json")
    with pytest.raises(UsageError, match="is a pipe"):
        read_report(tmp_path)


def test_a_unit_from_a_stranger_s_report_does_not_end_a_table_cell(report, tmp_path):
    report["ledger"]["rows"][0]["scores"]["top1"]["unit"] = "|<script>alert(1)</script>|"
    assert "<script>" not in write_reports(report, tmp_path)["markdown"].read_text()
