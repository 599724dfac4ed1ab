"""What a weight quantizer says of its layers is summed up, and every layer that fell back is named."""

import io

from rich.console import Console

from squeeze.report import text
from squeeze.report.facts import fact_lines
from squeeze.report.html import html_report
from squeeze.report.markdown import markdown_report
from squeeze.report.shape import Delta, Row, as_report
from squeeze.report.summary import summary
from squeeze.report.weights import weight_lines, weight_tables, worst


def test_losses_are_summed_and_fallbacks_named() -> None:
    layers = {
        "a": {"tokens": 900, "loss_rtn": 3.0, "loss": 1.0},
        "b": {"tokens": 800, "loss_rtn": 2.0, "loss": 0.5},
        "experts[3]": {"tokens": 7, "fallback": "rtn"},
    }
    ((_, line),) = fact_lines(Row(name="gptq", facts={"layers": layers}))
    assert line == (
        "3 weights; loss 5 by rounding alone → 1.5, over 7 tokens or more; fell back: experts[3] (rtn, 7 tokens)"
    )


def test_a_fact_of_another_shape_is_shown_as_it_comes() -> None:
    ((_, line),) = fact_lines(Row(name="mine", facts={"layers": ["a", "b"]}))
    assert line == "a, b"


def test_how_many_weights_were_quantized_is_a_sentence_and_no_layers_are_no_line() -> None:
    facts = {"layers": {}, "quantized": {"int4": [41, 42]}, "scales_rounded_by": 0.0}
    assert [line for _, line in fact_lines(Row(name="rtn", facts=facts))] == [
        "41 of 42 weights to int4",
        "nothing: they were float16 already",
    ]
    ((_, line),) = fact_lines(Row(name="other", facts={"scales_rounded_by": 0.00048}))
    assert line == "up to 0.00048 of themselves, to float16"


LAYERS = {
    "block.0.q.weight": {"tokens": 900, "loss_rtn": 4.0, "loss": 1.0, "clipped": 0.021, "dead": 3},
    "block.1.q.weight": {"tokens": 800, "loss_rtn": 2.0, "loss": 1.5, "clipped": 0.0, "folded": "norm"},
    "block.1.experts[3]": {"tokens": 7, "fallback": "rtn", "clipped": 0.5},
}
REPORT = {"schema": 1, "name": "r", "ledger": {"rows": [{"name": "gptq", "facts": {"layers": LAYERS}}]}}


def test_each_weight_tells_tokens_losses_and_what_was_clipped() -> None:
    ((_, lines),) = weight_tables(as_report(REPORT))
    assert [line.cells() for line in lines] == [
        ("block.0.q", "900", "4", "1", "25.00 %", "2.10 %", "3 dead inputs"),
        ("block.1.q", "800", "2", "1.5", "75.00 %", "0.00 %", "scaled by norm"),
        ("block.1.experts[3]", "7", "—", "—", "—", "50.00 %", "fell back to rtn"),
    ]


def test_both_pages_hold_the_table_folded_away_where_it_is_long() -> None:
    for page in (html_report(REPORT), markdown_report(REPORT)):
        assert "gptq: 3 weights</summary>" in page
        assert "fell back to rtn" in page
    assert "<details open><summary>gptq: 3 weights" in html_report(REPORT)
    many = {f"block.{n}.q": {"tokens": 9} for n in range(40)}
    long = REPORT | {"ledger": {"rows": [{"name": "gptq", "facts": {"layers": many}}]}}
    assert "<details><summary>gptq: 40 weights" in html_report(long)


def test_a_terminal_names_the_weights_with_most_loss_left() -> None:
    row = as_report(REPORT).rows[0]
    assert worst(row) == "block.1.q (1.5, 75.00 % of rounding's), block.0.q (1, 25.00 % of rounding's)"
    console = Console(width=200, file=io.StringIO())
    console.print(summary(REPORT))
    assert "gptq: most loss left in block.1.q (1.5" in console.file.getvalue()  # type: ignore[attr-defined]


def test_what_cutting_alone_would_lose_is_not_called_roundings() -> None:
    layers = {"block.0.down": {"tokens": 9, "loss_cut": 4.0, "loss": 1.0}, "block.1.down": {"tokens": 9, "loss": 2.0}}
    row = Row(name="prune_width", facts={"layers": layers})
    assert worst(row) == "block.1.down (2), block.0.down (1, 25.00 % of cutting's)"
    assert "loss 4 by cutting alone → 1, over 9 tokens or more" in dict(fact_lines(row))["layers"]


def test_another_packages_layers_are_no_weights() -> None:
    for layers in (["a"], {"a": 3}, {"a": {"tokens": "many"}}):
        assert weight_lines(Row(name="mine", facts={"layers": layers})) == []


def test_a_sure_change_too_small_for_four_decimals_is_not_worded_as_none() -> None:
    delta = Delta(difference=3.2e-6, verdict="worse")
    assert text.change("nats", delta) == "+3.2e-06"
    assert text.value("nats", 3.2e-6) == "3.2e-06"
    assert text.change("nats", Delta(difference=-0.25, verdict="better")) == "-0.2500"
    assert text.value("nats", 0.0) == "0.0000"
