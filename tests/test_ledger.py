"""The ledger: deltas are paired, verdicts follow the intervals, and scores on different data never meet."""

from __future__ import annotations

import json

import numpy as np
import pytest

from squeeze.algorithms.stats import Interval
from squeeze.errors import DataError
from squeeze.evaluate.latency import Paired
from squeeze.evaluate.metrics import ExampleMetric, Flips, Kl, Latency, Loss, Macs, Metric, SizeBytes, Top1
from squeeze.ledger import Ledger, Measured, Row, Score, ScoredOn, scores, timed_score

EXAMPLES, CLASSES = 400, 5
HERE = ScoredOn("here", "sha", EXAMPLES)
LABELS = np.random.default_rng(0).integers(0, CLASSES, EXAMPLES)


def logits(strength: float, seed: int = 0) -> np.ndarray:
    """Logits that know the label the better, the stronger they are."""
    noise = np.random.default_rng(seed).normal(size=(EXAMPLES, CLASSES))
    return (noise + strength * np.eye(CLASSES)[LABELS]).astype(np.float32)


def measured(values: np.ndarray | None, size: int = 100, on: ScoredOn | None = HERE) -> Measured:
    return Measured(values, {"size_bytes": size, "macs": size}, on)


def scored(new: Measured, original: Measured, previous: Measured | None, *metrics: Metric) -> dict[str, Score]:
    return scores(list(metrics), LABELS, new, original, previous)


def test_the_original_has_scores_with_intervals_and_no_deltas() -> None:
    original = measured(logits(2))
    score = scored(original, original, None, Top1())["top1"]
    assert score.value == pytest.approx((logits(2).argmax(1) == LABELS).mean())
    assert score.interval is not None
    assert score.interval.low < score.value < score.interval.high
    assert (score.to_original, score.to_previous) == (None, None)


def test_the_same_logits_are_the_same_and_not_merely_within_noise() -> None:
    original = measured(logits(2))
    for score in scored(measured(logits(2)), original, original, Top1(), Loss(), Kl(), Flips()).values():
        assert score.to_original is not None
        assert (score.to_original.verdict, score.to_original.difference) == ("same", 0)


@pytest.mark.parametrize(("strength", "verdict"), [(4.0, "better"), (0.5, "worse")])
def test_more_right_answers_are_better_and_a_lower_loss_too(strength: float, verdict: str) -> None:
    found = scored(measured(logits(strength)), measured(logits(2)), measured(logits(2)), Top1(), Loss())
    assert [score.to_original.verdict for score in found.values() if score.to_original] == [verdict, verdict]


def test_a_change_that_chance_explains_is_the_same_within_noise() -> None:
    original = logits(2)
    changed = original.copy()
    changed[:6] = np.roll(changed[:6], 1, axis=1)  # a few predictions move, some to the right answer by luck
    found = scored(measured(changed), measured(original), measured(original), Top1())["top1"]
    assert found.to_original is not None
    assert found.to_original.verdict == "same within noise"


def test_a_delta_is_paired_so_a_small_shift_of_every_example_is_seen() -> None:
    original, worse = logits(2), logits(2) * 0.97
    found = scored(measured(worse), measured(original), measured(original), Loss())["loss"]
    assert found.interval is not None
    assert found.to_original is not None
    assert found.to_original.difference_interval is not None
    width = found.interval.high - found.interval.low
    paired = found.to_original.difference_interval
    assert paired.excludes(0)
    assert paired.high - paired.low < width / 5


def test_each_row_is_compared_to_the_original_and_to_the_row_before() -> None:
    found = scored(measured(logits(3)), measured(logits(2)), measured(logits(5)), Top1())["top1"]
    assert found.to_original is not None
    assert found.to_previous is not None
    assert (found.to_original.verdict, found.to_previous.verdict) == ("better", "worse")
    assert found.to_original.ratio == pytest.approx(
        1 + found.to_original.difference / (found.value - found.to_original.difference)
    )


def test_exact_numbers_have_no_interval_and_smaller_is_better() -> None:
    found = scored(measured(None, 30), measured(None, 100), measured(None, 30), SizeBytes(), Macs())
    size = found["size_bytes"]
    assert size.to_original is not None
    assert size.to_previous is not None
    assert (size.to_original.ratio, size.to_original.verdict, size.to_original.ratio_interval) == (0.3, "better", None)
    assert size.to_previous.verdict == "same"


def test_a_ratio_to_nothing_is_undefined_and_not_infinite() -> None:
    zero = measured(logits(2), size=0)
    found = scored(measured(logits(3)), zero, zero, Kl(), SizeBytes())
    assert [score.to_original.ratio for score in found.values() if score.to_original] == [None, None]


def test_scores_on_different_data_are_never_compared() -> None:
    elsewhere = measured(logits(2), on=ScoredOn("elsewhere", "other", EXAMPLES))
    with pytest.raises(DataError, match="top1: two scores on different data cannot be compared"):
        scored(measured(logits(3)), elsewhere, elsewhere, Top1())


def test_a_metric_that_gives_no_number_per_example_is_told() -> None:
    class Whole(ExampleMetric):
        name, unit = "whole", "nats"

        def per_example(self, logits: np.ndarray, labels: np.ndarray | None, original: np.ndarray) -> np.ndarray:
            return logits - original

    with pytest.raises(DataError, match=r"whole: gave \[400, 5\]; one number per example would do"):
        scored(measured(logits(3)), measured(logits(2)), None, Whole())


def test_two_ledgers_of_the_same_scores_are_the_same_json() -> None:
    texts = set()
    for _ in range(2):
        found = scored(measured(logits(3)), measured(logits(2)), measured(logits(2)), Top1(), Loss(), SizeBytes())
        rows = [Row("original", None, "torch", "k", {}, {}), Row("a", None, "torch", "k", {"x": 1}, found)]
        texts.add(json.dumps(Ledger(HERE, rows).to_json(timings=False), sort_keys=True))
    assert len(texts) == 1


def test_what_a_clock_said_stands_apart_from_what_must_not_vary() -> None:
    paired = Paired(0.5, 1.0, 0.5, Interval(0.4, 0.6), 50)
    timing = timed_score(Latency(), paired, None)
    row = Row("a", None, "onnx", "k", {}, {}, timings={"latency": timing}, measured={"ms": 3})
    assert row.score("latency") is timing
    assert timing.to_original is not None
    assert timing.to_original.verdict == "better"
    assert not {"timings", "measured"} & row.to_json(timings=False).keys()


def test_the_line_of_a_branch_is_the_trunk_and_its_own_rows() -> None:
    rows = [Row(name, branch, "torch", "k", {}, {}) for name, branch in [("o", None), ("a", "x"), ("b", "y")]]
    assert [row.name for row in Ledger(None, rows).line_of("y")] == ["o", "b"]
