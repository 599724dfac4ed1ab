"""A row whose file was not run here: its scores are unknown in every form of the report, and never zero."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from test_report_terminal import printed

from squeeze.report.html import html_report
from squeeze.report.junit import junit_xml
from squeeze.report.markdown import markdown_report
from squeeze.report.summary import summary
from squeeze.report.table import ledger_table, row_line

REASON = "Core ML runs on macOS only"
TOLD = f"phone: mobile was not run: {REASON}."


@pytest.fixture
def unrun(report):
    """With a row at the end that has a size alone, and the judgement of a bound on what is unknown of it."""
    size = report["ledger"]["rows"][-1]["scores"]["size_bytes"]
    row = {"name": "mobile", "branch": "phone", "form": "artifact", "scores": {"size_bytes": size}, "not_run": REASON}
    line = f"top1: at least -0.5 points: not measured: {REASON}: unproven"
    judged = {"branch": "phone", "metric": "top1", "written": "-0.5 points", "outcome": "unproven", "line": line}
    report["ledger"]["rows"].append(row)
    report["judgements"].append(judged)
    return report


@pytest.mark.parametrize("width", [160, 100])
def test_on_a_terminal_cells_say_it_and_the_caption_why(unrun, width):
    out = " ".join(printed(ledger_table(unrun, width), width).split())
    (row,) = re.findall(r"phone: mobile artifact (.*?) Scored on", out)
    assert row == "not run 300 KB ✓ not run -70.0 %"
    assert TOLD in out


def test_where_columns_do_not_fit_the_caption_says_it(unrun):
    assert TOLD in " ".join(printed(ledger_table(unrun, 40), 80).split())


def test_the_line_of_the_row_and_of_the_budget_say_it(unrun):
    assert row_line(unrun["ledger"]["rows"][-1]) == (
        f"phone: mobile (artifact): size 300 KB (-70.0 %), not run: {REASON}"
    )
    assert f"budget phone: top1: at least -0.5 points: not measured: {REASON}: unproven" in printed(summary(unrun), 160)


def test_markdown_says_it(unrun):
    text = markdown_report(unrun)
    assert f"\n{TOLD}\n" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| phone: mobile | artifact |")]
    assert line.count("not run") == 2  # top-1 and latency


def test_the_page_says_it(unrun):
    page = html_report(unrun)
    assert TOLD in page
    assert page.count('<span class="soft">not run</span>') == 2
    assert f'<p class="small soft">not run: {REASON}</p>' in page


def test_junit_says_it_and_skips_the_bound(unrun):
    root = ElementTree.fromstring(junit_xml(unrun))
    (case,) = [case for case in root.iter("testcase") if case.get("name") == "phone: mobile"]
    assert case.findtext("system-out") == f"size 300 KB (-70.0 %)\nnot run: {REASON}"
    (bound,) = [case for case in root.iter("testcase") if case.get("name") == "phone: top1 -0.5 points"]
    assert bound.find("skipped") is not None
