"""One wording of numbers for all outputs."""

from __future__ import annotations

import pytest

from squeeze.report import text
from squeeze.report.facts import fact_lines
from squeeze.report.shape import Delta, Report, Row, Score, ScoredOn


@pytest.mark.parametrize(
    ("unit", "number", "words"),
    [
        ("share", 0.8075, "80.75 %"),
        ("bytes", 78_420, "78.4 KB"),
        ("bytes", 999, "999 bytes"),
        ("bytes", 999_900, "1.00 MB"),
        ("bytes", 8_030_000_000, "8.03 GB"),
        ("count", 269_722, "269,722"),
        ("count", 40_551_168, "40.6 M"),
        ("ratio", 0.55, "0.55\N{MULTIPLICATION SIGN}"),
        ("nats", 0.65432, "0.6543"),
        ("tokens/s", 12.345, "12.35 tokens/s"),
        ("share", None, "—"),
        ("nats", float("inf"), "—"),
    ],
)
def test_each_unit_is_worded_its_own_way(unit, number, words):
    assert text.value(unit, number) == words


def moved(difference, ends=None, ratio=None, ratio_ends=None, verdict="worse", **more):
    values = {"difference": difference, "difference_interval": ends, "ratio": ratio, "ratio_interval": ratio_ends}
    return Delta(verdict=verdict, **values, **more)


@pytest.mark.parametrize(
    ("unit", "delta", "words"),
    [
        ("share", moved(-0.0034, (-0.0072, 0.0004)), "-0.34 points [-0.72, +0.04]"),
        ("share", moved(-0.000001, (-0.01, 0.01)), "+0.00 points [-1.00, +1.00]"),
        ("bytes", moved(-729, ratio=0.271), "-72.9 %"),
        ("bytes", moved(729), "+729 bytes"),
        ("nats", moved(0.0123, (0.01, 0.015)), "+0.0123 [+0.0100, +0.0150]"),
        ("ratio", moved(-1, None, 0.5, (0.4, 0.6)), "0.50\N{MULTIPLICATION SIGN} [0.40, 0.60]"),
        ("share", moved(0.0, (0.0, 0.0), verdict="same"), "±0"),
        ("share", None, ""),
    ],
    ids=["points", "no minus zero", "percent", "ratio unknown", "nats", "ratio", "same", "original"],
)
def test_a_change_is_in_the_words_of_its_unit(unit, delta, words):
    assert text.change_text(unit, delta) == words


@pytest.mark.parametrize("verdict", ["better", "worse", "not told apart", "equivalent", "same"])
def test_every_verdict_has_a_mark_and_is_written_out_in_words(verdict):
    score = Score(metric="top1", unit="share", value=0.5, to_original=moved(0.1, verdict=verdict))
    assert text.marked(score).endswith(text.MARKS[verdict])
    assert text.verdict("share", score.to_original).startswith(verdict)


def test_what_is_not_told_apart_says_how_far_it_could_be():
    delta = moved(-0.0034, (-0.0072, 0.0004), verdict="not told apart")
    assert text.verdict("share", delta) == "not told apart (could be -0.72 to +0.04 points)"
    fast = moved(-0.1, ratio=0.99, ratio_ends=(0.97, 1.01), verdict="not told apart")
    assert text.verdict("ratio", fast) == "not told apart (could be 0.97 to 1.01\N{MULTIPLICATION SIGN})"


def test_no_verdict_has_no_mark_and_says_why():
    delta = moved(0.1, verdict="no verdict", why="not the primary metric")
    assert text.verdict("share", delta) == "no verdict: not the primary metric"
    assert text.marked(Score(metric="top1", unit="share", value=0.5, to_original=delta)) == "50.00 %"


def test_units_copies_and_the_number_of_comparisons_are_told():
    on = ScoredOn(name="digits", sha256="ab", examples=597, units=548, copies=49)
    assert text.examples(on) == "597 examples of digits, 548 independent units; 49 copies counted once"
    ledger = {"primary": ["top1"], "comparisons": {"top1": 5, "loss": 5}}
    message = text.judged(Report.model_validate({"schema": 1, "name": "x", "ledger": ledger}))
    assert message == "The table holds 10 comparisons with the original; judged: top-1, 5 together (Holm, 5 %). "


def test_each_delta_says_the_smallest_change_that_would_show():
    assert text.smallest_seen("share", moved(0.1, smallest_seen=0.0103)) == "1.03 points"
    assert text.smallest_seen("nats", moved(0.1, smallest_seen=0.00001)) == "1.0e-05"
    assert text.smallest_seen("bytes", moved(-5)) == ""


def test_a_verdict_of_a_later_version_is_shown_without_a_mark():
    score = Score(metric="top1", unit="share", value=0.5, to_original=moved(0.1, verdict="untested"))
    assert text.marked(score) == "50.00 %"


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"coverage": {"Conv": [21, 21], "Gemm": [1, 1]}}, ("coverage", "int8: 21 of 21 Conv, 1 of 1 Gemm")),
        ({"coverage": {"int4": {"MatMul": [3, 4]}}}, ("coverage", "int4: 3 of 4 MatMul")),
        ({"coverage": {"Conv": "all"}}, ("coverage", "Conv: all")),
        (
            {"widths": {"a": [16, 8], "b": [4, 4]}},
            ("widths", "2 layers changed, 20 → 12 channels in all: a 16 → 8, b 4 → 4"),
        ),
        ({"losses": [2.0, 1.0]}, ("losses", "2.0000 → 1.0000 over 2 epochs")),
        ({"losses": []}, ("losses", "none")),
        ({"losses": {"train": [1, 2]}}, ("losses", "train: 1, 2")),
        ({"macs": [40_551_168, 20_000_000]}, ("MACs", "40.6 M → 20.0 M")),
        ({"skipped_layers": list(range(11))}, ("skipped layers", "0, 1, 2, 3, 4, 5, 6, 7 and 3 more")),
        ({"exact": True}, ("exact", "yes")),
        (
            {"delegated": {"to": "XNNPACK", "operators": [33, 37], "macs": [40, 50], "left": {"slice": "Slice by it"}}},
            (
                "delegated",
                "XNNPACK runs 33 of 37 operators, 80 % of the multiplications; slow kernels run slice (Slice by it)",
            ),
        ),
        (
            {"delegated": {"to": "XNNPACK", "operators": [3, 3], "left": {}}},
            ("delegated", "XNNPACK runs 3 of 3 operators"),
        ),
        ({"anything": {"new": [1.5, None]}}, ("anything", "new: 1.5, none")),
    ],
    ids=str,
)
def test_known_facts_are_told_and_unknown_ones_still_shown(facts, words):
    assert fact_lines(Row(name="p", facts=facts)) == [words]
