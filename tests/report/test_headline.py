"""What is not faster than the original is the first thing that a report says, and nothing is said where all are."""

from __future__ import annotations

from typing import Any

import pytest
from report_world import delta, row, score, small_report

from squeeze.cli.show import show_run
from squeeze.report.headline import headline
from squeeze.report.html import html_report
from squeeze.report.markdown import markdown_report
from squeeze.report.shape import as_report
from squeeze.report.text import TIMES

LINE = (
    f"Not faster than the original: cpu: pack (latency 1.50{TIMES} [1.47, 1.54]); "
    f"mobile: pack (prefill 1.00{TIMES} [0.97, 1.02], not told apart, decode 1.08{TIMES} [1.06, 1.10])"
)


def timed(name: str, ratio: float, ends: list[float], verdict: str) -> dict[str, Any]:
    moved = delta(ratio - 1, None, ratio, ends, verdict)
    return score(name, "ratio", ratio, ends, moved, moved)


def slow_report() -> dict[str, Any]:
    faster = timed("latency", 0.5, [0.48, 0.52], "better")
    slower = timed("latency", 1.5, [1.47, 1.54], "worse")
    text = [timed("prefill", 1.0, [0.97, 1.02], "not told apart"), timed("decode", 1.08, [1.06, 1.10], "worse")]
    rows = [
        row("original"),
        row("quantize_static", "onnx", None, (), [slower]),  # no end: what follows decides
        row("pack", "artifact", "cpu", (), [slower]),
        row("pack", "artifact", "mobile", (), text),
        row("pack", "artifact", "other", (), [faster]),
    ]
    return small_report() | {"ledger": {"scored_on": None, "rows": rows}}


def test_each_end_that_is_not_shown_to_be_faster_is_named_with_its_times() -> None:
    assert headline(as_report(slow_report())) == LINE


def test_it_is_the_first_line_of_every_form(capsys: pytest.CaptureFixture[str]) -> None:
    report = slow_report()
    assert markdown_report(report).splitlines()[2] == f"**{LINE}.**"
    body = html_report(report).split("</h1>")[1]
    assert body.split("</p>")[0].strip() == f"<p><strong>{LINE}.</strong>"
    show_run(report)
    assert capsys.readouterr().out.replace("\n", " ").startswith(LINE)


def test_a_report_of_faster_ends_or_of_none_timed_says_nothing(report: dict[str, Any]) -> None:
    assert headline(as_report(report)) == ""
    assert headline(as_report({"schema": 1, "name": "bare", "ledger": {"rows": [row("original")]}})) == ""
    for page in (markdown_report(report), html_report(report)):
        assert "Not faster" not in page
