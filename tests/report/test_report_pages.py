"""Markdown and HTML: all of the report, nothing of a stranger's markup, the same bytes every time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from squeeze.report.html import html_report
from squeeze.report.markdown import escaped, markdown_report
from squeeze.report.write import read_report, write_reports

ROOT = Path(__file__).parents[2]
AGAIN = (
    "import json, sys, squeeze.report.html as h; sys.stdout.buffer.write(h.html_report(json.load(sys.stdin)).encode())"
)


class Tags(HTMLParser):
    """Tag names and their attributes, and whether every tag that opens also closes."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_same_report_gives_the_same_bytes_in_another_process_and_after_a_reading(report, tmp_path):
    paths = write_reports(report, tmp_path)
    first = paths["html"].read_bytes()
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    stored = paths["json"].read_bytes()
    again = subprocess.run(
        [sys.executable, "-c", AGAIN], input=stored, capture_output=True, env=environment, check=True
    )
    assert again.stdout == first
    before = {path: path.read_bytes() for path in paths.values()}
    write_reports(read_report(tmp_path), tmp_path)
    assert {path: path.read_bytes() for path in paths.values()} == before


def test_a_page_carries_scores_deltas_budget_packages_facts_and_layers(report):
    for page in (html_report(report), markdown_report(report)):
        words = (
            "80.41 % ≈",
            "-0.34 points",
            "[-0.72, +0.04]",
            "not told apart",
            "300 KB ✓",
            "-70.0 %",
            "1.2 ms → 0.66 ms",
        )
        words += ("±0", "measured 55.0 %", "broken", "unproven", "small-cpu.zip", "sha256:abab", "took 2 min 14 s")
        words += ("int8: 21 of 21 Conv, 1 of 1 Gemm", "4,998 examples of made-up", "pass: quantize_static")
        assert [word for word in words if word not in page] == []
    assert "16\N{MULTIPLICATION SIGN}1" in page
    assert "144 → 72" in page


def test_hostile_names_are_shown_and_never_run(report):
    put_hostile_names(report)
    page, prose = html_report(report), markdown_report(report).split("```")[0]
    tags = Tags(page)
    assert tags.open == []
    assert [tag for tag, _ in tags.elements].count("script") == 1
    for place in ("layer", "pass", "branch", "fact", "line", "note", "name", "plan"):
        assert f"&lt;script&gt;alert(&#34;{place}&#34;)" in page
        assert place == "plan" or f'&lt;script&gt;alert("{place}")' in prose
    assert "<script" not in prose


def hostile(place):
    return f'<script>alert("{place}")</script> |`$x_1$'


def put_hostile_names(report):
    row = report["ledger"]["rows"][1]
    row |= {"name": hostile("pass"), "branch": hostile("branch"), "facts": {hostile("fact"): {hostile("fact"): None}}}
    report["layers"]["cpu"][0]["name"] = hostile("layer")
    report["judgements"][0]["line"] = hostile("line")
    report["packages"][0]["notes"] = [hostile("note")]
    report |= {"name": hostile("name"), "plan": {"model": hostile("plan")}}


def test_the_page_needs_no_network_and_allows_only_its_own_script(report):
    tags = Tags(html_report(report)).elements
    attributes = {name for _, attrs in tags for name in attrs}
    assert "src" not in attributes
    assert not any(name.startswith("on") for name in attributes)
    links = [value for _, attrs in tags for name, value in attrs.items() if name.endswith("href")]
    assert all(link.startswith("#") for link in links)
    policy = next(attrs["content"] for tag, attrs in tags if tag == "meta" and "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'")
    assert "script-src 'sha256-" in policy


def test_the_pictures_are_valid_and_take_their_colours_from_the_page(report):
    pictures = re.findall(r"<svg.*?</svg>", html_report(report), re.DOTALL)
    assert len(pictures) == 2  # per pass, and size against score: two branches
    for picture in pictures:
        ElementTree.fromstring(picture)
        assert "var(--ink)" in picture
        assert not re.search(r"#0[0-9a]0[0-9a]0[0-9a]\b", picture)
    ids = re.findall(r'\bid="([^"]*)"', "".join(pictures))
    assert len(ids) == len(set(ids))


def test_a_score_far_below_the_others_does_not_hide_their_intervals(report):
    from squeeze.report.pictures import _worth_seeing
    from squeeze.report.shape import as_report

    fallen = {"metric": "top1", "unit": "share", "value": 0.1, "interval": [0.09, 0.11]}
    report["ledger"]["rows"].insert(1, {"name": "prune_channels", "form": "torch", "scores": {"top1": fallen}})
    data = as_report(report)
    low, high = _worth_seeing(data, data.metrics()[0])
    assert 0.6 < low < 0.79
    assert 0.8182 < high < 0.9


def test_a_bare_ledger_makes_a_page_without_pictures(bare_report):
    page = html_report(bare_report)
    assert "<svg" not in page
    assert "Nothing was scored" in page
    assert "| original | torch |" in markdown_report(bare_report)


@pytest.mark.parametrize("metric", ["top1", "size_bytes", "latency"])
def test_a_metric_that_a_row_lacks_is_a_dash(report, metric):
    for row in report["ledger"]["rows"][1:3]:
        row["scores"].pop(metric, None)
        row["timings"].pop(metric, None)
    assert "—" in markdown_report(report)
    assert "—" in html_report(report)


@pytest.mark.parametrize("branches", [1, 2])
@pytest.mark.parametrize("labels", [("top1",), ("size_bytes",), ("latency",), ("top1", "size_bytes"), ()], ids="+".join)
def test_any_choice_of_metrics_and_branches_can_be_drawn(report, labels, branches):
    rows = report["ledger"]["rows"]
    del rows[branches + 2 :]
    for row in rows:
        for scores in (row["scores"], row["timings"]):
            for metric in set(scores) - set(labels):
                del scores[metric]
    page = html_report(report)
    assert Tags(page).open == []
    assert page.count("<svg") == (bool(labels) + (branches == 2 and len(labels) == 2))


def test_a_value_that_is_not_a_number_is_a_dash(report):
    report["ledger"]["rows"][1]["scores"]["top1"] |= {"value": float("nan"), "interval": [float("nan"), 1.0]}
    assert "— ≈" in markdown_report(report)
    assert "— ≈" in html_report(report)


def test_a_run_that_stopped_says_why(report):
    report["failure"] = {"name": "distill", "branch": None, "line": "distill: changed no weight"}
    assert "distill: changed no weight" in markdown_report(report)
    assert "distill: changed no weight" in html_report(report)


def test_graphs_without_a_name_in_common_are_not_called_removed_and_new(report):
    report["layers"]["cpu"] = [dict(report["layers"]["cpu"][0], name="node_1")]
    assert "(removed)" not in markdown_report(report)
    report["layers"]["cpu"].append(report["layers"]["original"][1])
    assert "conv1 (removed)" in markdown_report(report)
    assert "node\\_1 (new)" not in markdown_report(report)


def test_markdown_keeps_identifiers_readable_and_breaks_links():
    assert escaped("prune_channels a|b") == "prune_channels a\\|b"
    assert escaped("[x](javascript:1) _y_") == "[x\\](javascript:1) \\_y\\_"


def test_a_plan_with_backticks_stays_inside_its_fence(report):
    report["plan"] = {"model": "````\n# not a heading"}
    assert "`````yaml" in markdown_report(report)


@pytest.mark.parametrize("metric", ["size_bytes", "latency"])
def test_a_metric_that_no_row_could_be_scored_by_has_no_panel(report, metric):
    for row in report["ledger"]["rows"]:
        for score in (row["scores"] | row["timings"]).values():
            if score["metric"] == metric:
                score["value"] = score["interval"] = None
    assert "<svg" in html_report(report)


def test_times_that_are_no_numbers_are_not_shown(report):
    report["ledger"]["rows"][1]["measured"]["latency"] = {"new_ms": "x", "original_ms": None}
    assert "<svg" in html_report(report)
