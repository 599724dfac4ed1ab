"""What a weight quantizer says of its layers is summed up, and every layer that fell back is named."""

from squeeze.report.facts import fact_lines
from squeeze.report.shape import Row


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
