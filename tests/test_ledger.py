"""The ledger: deltas are paired, verdicts follow the intervals, and scores on different data never meet."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import ndtri

from squeeze.algorithms.stats import Interval
from squeeze.budget import parse_margin
from squeeze.comparison import Delta, concluded, delta_of, unsure
from squeeze.errors import DataError
from squeeze.evaluate.counts import Macs, SizeBytes
from squeeze.evaluate.latency import Paired
from squeeze.evaluate.metrics import ExampleMetric, Flips, Kl, Latency, Loss, Metric, Top1
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
    result = scored(measured(logits(strength)), measured(logits(2)), measured(logits(2)), Top1(), Loss())
    assert [score.to_original.verdict for score in result.values() if score.to_original] == [verdict, verdict]


def test_a_change_that_chance_explains_is_not_told_apart() -> None:
    original = logits(2)
    changed = original.copy()
    changed[:6] = np.roll(changed[:6], 1, axis=1)  # a few predictions move, some to the right answer by luck
    result = scored(measured(changed), measured(original), measured(original), Top1())["top1"]
    assert result.to_original is not None
    assert result.to_original.verdict == "not told apart"


def test_a_delta_is_paired_so_a_small_shift_of_every_example_is_seen() -> None:
    original, worse = logits(2), logits(2) * 0.97
    result = scored(measured(worse), measured(original), measured(original), Loss())["loss"]
    assert result.interval is not None
    assert result.to_original is not None
    assert result.to_original.difference_interval is not None
    width = result.interval.high - result.interval.low
    paired = result.to_original.difference_interval
    assert paired.excludes(0)
    assert paired.high - paired.low < width / 5


def test_each_row_is_compared_to_the_original_and_to_the_row_before() -> None:
    result = scored(measured(logits(3)), measured(logits(2)), measured(logits(5)), Top1())["top1"]
    assert result.to_original is not None
    assert result.to_previous is not None
    assert (result.to_original.verdict, result.to_previous.verdict) == ("better", "worse")
    assert result.to_original.ratio == pytest.approx(
        1 + result.to_original.difference / (result.value - result.to_original.difference)
    )


def test_exact_numbers_have_no_interval_and_smaller_is_better() -> None:
    result = scored(measured(None, 30), measured(None, 100), measured(None, 30), SizeBytes(), Macs())
    size = result["size_bytes"]
    assert size.to_original is not None
    assert size.to_previous is not None
    assert (size.to_original.ratio, size.to_original.verdict, size.to_original.ratio_interval) == (0.3, "better", None)
    assert size.to_previous.verdict == "same"


def test_a_ratio_to_nothing_is_undefined_and_not_infinite() -> None:
    zero = measured(logits(2), size=0)
    result = scored(measured(logits(3)), zero, zero, Kl(), SizeBytes())
    assert [score.to_original.ratio for score in result.values() if score.to_original] == [None, None]


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
        result = scored(measured(logits(3)), measured(logits(2)), measured(logits(2)), Top1(), Loss(), SizeBytes())
        rows = [Row("original", None, "torch", "k", {}, {}), Row("a", None, "torch", "k", {"x": 1}, result)]
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


def change(errors: float) -> Delta:
    """A change by so many of its standard errors, lower is better."""

    def at(level: float) -> Interval:
        reach = float(ndtri((1 + level) / 2))
        return Interval(errors - reach, errors + reach)

    return concluded(unsure(errors, None, 100, at))


def judged(*changes: Delta) -> list[Delta]:
    """One row per change, judged together."""
    rows = [Row("pass", None, "torch", "k", {}, {"loss": Score("loss", "nats", 1.0, None, one)}) for one in changes]
    result = [row.delta("loss") for row in Ledger(HERE, rows).settled(("loss",)).rows]
    return [delta for delta in result if delta is not None]


def test_a_change_that_stands_alone_is_told_and_among_twenty_it_must_be_surer() -> None:
    """Twenty looks find something by chance; Holm asks each for a twentieth of the doubt."""
    alone, among = judged(change(-2.5))[0], judged(change(-2.5), *[change(0.1)] * 19)[0]
    assert (alone.verdict, alone.level) == ("better", 0.95)
    assert (among.verdict, among.level) == ("not told apart", pytest.approx(1 - 0.05 / 20))


def test_a_sure_change_makes_room_for_the_others() -> None:
    """2.1 standard errors are not enough for one of two, and are for the one that is left."""
    first, second = judged(change(-9), change(-2.1))
    assert [one.verdict for one in (first, second)] == ["better", "better"]
    assert (first.level, second.level) == (pytest.approx(0.975), pytest.approx(0.95))
    assert [one.verdict for one in judged(change(-2.1), change(-2.1))] == ["not told apart"] * 2


def settled(*changes: np.ndarray, margin: str | None = None) -> list[Score]:
    """One row per changed model, judged together by the loss."""
    original, metric = measured(logits(2)), Loss()
    rows = [Row("pass", None, "torch", "k", {}, scored(measured(new), original, original, metric)) for new in changes]
    margins = {"loss": parse_margin(metric, margin)} if margin else {}
    return [row.scores["loss"] for row in Ledger(HERE, rows).settled(("loss",), margins).rows]


def shifted(by: float, noise: float = 0.05) -> np.ndarray:
    """The original's logits, the label's moved by so much on average."""
    moved = by + noise * np.random.default_rng(7).normal(size=EXAMPLES)
    return (logits(2) + moved[:, None] * np.eye(CLASSES)[LABELS]).astype(np.float32)


@pytest.mark.parametrize("index", range(6))
def test_each_verdict_is_read_off_the_interval_that_stands_beside_it(index: int) -> None:
    score = settled(*[shifted(by) for by in (-0.5, -0.006, 0.0, 0.004, 0.008, 0.5)])[index]
    assert score.to_original is not None
    interval = score.to_original.difference_interval
    assert interval is not None
    verdicts = {"better": interval.high < 0, "worse": interval.low > 0, "not told apart": not interval.excludes(0)}
    assert verdicts[score.to_original.verdict]


def test_only_the_primary_metric_is_judged_and_only_against_the_original() -> None:
    original = measured(logits(2))
    result = scored(measured(logits(4)), original, measured(logits(3)), Top1(), Loss(), SizeBytes())
    ledger = Ledger(HERE, [Row("a", None, "torch", "k", {}, result)]).settled(("top1",))
    top1, loss, size = (ledger.rows[0].scores[name] for name in ("top1", "loss", "size_bytes"))
    assert top1.to_original is not None
    assert loss.to_original is not None
    assert size.to_original is not None
    assert top1.to_previous is not None
    assert top1.to_original.verdict == "better"
    assert (loss.to_original.verdict, loss.to_original.why) == ("no verdict", "not the primary metric")
    assert loss.to_original.difference_interval is not None
    assert size.to_original.verdict == "same"
    assert top1.to_previous.verdict == "no verdict"
    assert ledger.comparisons() == {"top1": 1, "loss": 1}


def test_a_distance_from_the_original_is_never_better_or_worse() -> None:
    """KL and flips cannot fall below zero, so any change of rounding was "worse"."""
    original = measured(logits(2))
    result = scored(measured(logits(1)), original, original, Kl(), Flips())
    for score in result.values():
        assert score.interval is not None
        assert score.to_original is not None
        assert score.to_original.verdict == "no verdict"
        assert "a distance from the original" in score.to_original.why
    assert (result["kl"].floor, result["flips"].floor) == (Kl.rounding, 0)


def test_equivalent_is_only_what_a_declared_margin_holds_whole() -> None:
    verdicts = [
        score.to_original.verdict
        for margin in ("5 %", None, "0.1 %")
        for score in settled(shifted(0.004), margin=margin)
        if score.to_original
    ]
    assert verdicts == ["equivalent", "not told apart", "not told apart"]


def test_the_same_count_of_right_answers_is_no_proof_that_nothing_changed() -> None:
    """With a true drop of one point and 50 examples, half of all samples show no difference at all."""
    result = scored(measured(logits(2) * 0.9), measured(logits(2)), measured(logits(2)), Top1())["top1"]
    assert result.to_original is not None
    assert (result.to_original.difference, result.to_original.verdict) == (0, "not told apart")
    assert result.to_original.difference_interval is not None
    assert result.to_original.difference_interval.low < -0.005


def test_below_ten_independent_units_there_is_an_interval_and_no_verdict() -> None:
    units = np.arange(EXAMPLES) % 9
    old, new = (Measured(logits(strength), {}, HERE, units=units) for strength in (2, 4))
    for score in scored(new, old, old, Loss(), Top1()).values():
        assert score.to_original is not None
        assert (score.to_original.verdict, score.units) == ("no verdict", 9)
        assert score.to_original.why == "9 independent units; 10 or more would do"


def test_each_row_says_the_smallest_change_that_it_could_have_seen() -> None:
    (score,) = settled(shifted(0.0))
    assert score.to_original is not None
    assert score.to_original.difference_interval is not None
    low, high = score.to_original.difference_interval
    assert score.to_original.smallest_seen == pytest.approx(1.4294 * (high - low) / 2, rel=1e-3)


def test_a_count_that_is_not_known_of_the_original_has_no_delta() -> None:
    unknown = Measured(None, {}, HERE)
    result = scored(measured(None), unknown, unknown, Macs())["macs"]
    assert (result.value, result.to_original) == (100, None)


def test_what_only_lives_in_memory_is_not_written_down() -> None:
    (score,) = settled(shifted(0.1))
    written = Row("a", None, "torch", "k", {}, {"loss": score}).to_json()["scores"]["loss"]
    assert not {"at", "ratio_at", "higher_is_better"} & (written.keys() | written["to_original"].keys())
    json.dumps(written)


def test_a_distance_that_was_nothing_but_rounding_is_no_measure_of_the_next() -> None:
    """An export leaves a KL of 1e-16; what int8 does to it is not told as a trillion times as much."""
    before, after = np.where(np.arange(12) < 5, 1e-16, 0.0), np.linspace(0, 1e-3, 12)
    delta = delta_of(Kl(), after, before, None, same=False)
    assert delta.ratio is None
    assert delta_of(Kl(), after, before + 1e-4, None, same=False).ratio is not None
