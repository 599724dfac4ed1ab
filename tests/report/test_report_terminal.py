"""The ledger on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from squeeze.report.summary import summary
from squeeze.report.table import ledger_table, row_line


def printed(renderable, width, terminal=False):
    file = io.StringIO()
    options = {"force_terminal": terminal, "color_system": "standard" if terminal else None}
    Console(file=file, width=width, **options).print(renderable)
    return file.getvalue()


def with_metrics(report, number):
    for row in report["ledger"]["rows"]:
        top1 = row["scores"]["top1"]
        row["scores"] |= {f"metric_{i}": top1 | {"metric": f"metric_{i}"} for i in range(number)}
    return report


@pytest.mark.parametrize("width", [60, 80, 100, 160])
@pytest.mark.parametrize("extra", [0, 3, 9])
def test_no_value_is_cut_and_no_line_is_too_long(report, width, extra):
    out = printed(ledger_table(with_metrics(report, extra), width), max(width, 80))
    assert "…" not in out
    assert out.count("80.41 %") == 3 * (extra + 1)
    assert out.count("80.75 %") == extra + 1


@pytest.mark.parametrize(
    ("width", "extra", "visible", "hidden"),
    [
        (160, 0, ["form", "-0.34 [-0.72, +0.04]"], ["verdict"]),
        (160, 5, ["form", "[-0.72, +0.04]"], ["-0.34 [", "verdict"]),
        (100, 4, ["-0.34", "80.41 % ≈"], ["[-0.72, +0.04]", "form", "verdict"]),
        (80, 9, ["-0.34 points [-0.72, +0.04]", "verdict", "not told apart"], ["80.41 % ≈"]),
    ],
    ids=["full", "tall", "compact", "stacked"],
)
def test_the_layout_follows_the_width(report, width, extra, visible, hidden):
    out = printed(ledger_table(with_metrics(report, extra), width), width).partition("Scored on")[0]
    assert [words for words in visible if words not in out] == []
    assert [words for words in hidden if words in out] == []


def test_colour_only_on_a_terminal(report):
    table = ledger_table(report)
    assert "\x1b[" not in printed(table, 100) + printed(summary(report), 100)
    assert "\x1b[32m" in printed(table, 100, terminal=True)  # better: green
    assert "\x1b[1;31mbroken" in printed(summary(report), 120, terminal=True)
    assert "\x1b[33munproven" in printed(summary(report), 120, terminal=True)


def test_a_ledger_without_scores_or_passes_is_a_table_all_the_same(bare_report):
    assert "original" in printed(ledger_table(bare_report), 100)
    bare_report["ledger"]["rows"].append({"name": "prune_channels", "form": "torch"})
    assert "prune_channels" in printed(ledger_table(bare_report), 100)
    bare_report["ledger"]["rows"] = []
    assert "bare" in printed(ledger_table(bare_report), 100)
    assert printed(summary(bare_report), 100).strip() == ""


def test_names_are_text_and_no_markup(report):
    report["ledger"]["rows"][1]["name"] = "[red]x[/red]"
    report["packages"][0]["path"] = "[bold]y"
    assert "[red]x[/red]" in printed(ledger_table(report), 160)
    assert "[bold]y" in printed(summary(report), 100)


def test_a_finished_pass_is_one_line(report):
    line = row_line(report["ledger"]["rows"][1])
    assert line.startswith("cpu: quantize_static (onnx): top-1 80.41 % (-0.34 points [-0.72, +0.04]), size 300 KB")
    assert "\n" not in line
    assert row_line({"name": "p", "form": "torch"}) == "p (torch): not scored"


def test_the_summary_tells_coverage_budget_packages_and_cost(report):
    report["packages"][0] |= {"verified": False, "notes": ["golden output differs"]}
    report["failure"] = {"name": "distill", "line": "distill: changed no weight"}
    out = printed(summary(report), 140)
    assert "cpu: quantize_static: int8: 21 of 21 Conv, 1 of 1 Gemm" in out
    assert "budget cpu: size_bytes: <= 40 % of the original: measured 30.0 %: kept" in out
    assert "small-cpu.zip: 310 KB, sha256:abababababab, not verified\n  golden output differs" in out
    assert "Took 2 min 14 s, at most 1.21 GB of memory" in out
    assert "stopped: distill: changed no weight" in out
