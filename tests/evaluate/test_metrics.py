"""Metrics by hand on a few examples, and what they say to data that they cannot be measured on."""

from __future__ import annotations

import numpy as np
import pytest

from squeeze.errors import DataError
from squeeze.evaluate.counts import Macs
from squeeze.evaluate.metrics import ExampleMetric, Flips, Kl, Loss, Top1, Top5
from squeeze.evaluate.perplexity import Perplexity
from squeeze.evaluate.slack import slack

LOGITS = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], dtype=np.float32))
OTHER = np.log(np.array([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]], dtype=np.float32))
LABELS = np.array([0, 1])


def test_top1_is_whether_the_highest_logit_is_the_labels() -> None:
    assert Top1().per_example(LOGITS, LABELS, LOGITS).tolist() == [True, False]


def test_top5_of_fewer_classes_is_always_right_and_of_more_is_not() -> None:
    assert Top5().per_example(LOGITS, LABELS, LOGITS).tolist() == [True, True]
    ten = np.arange(10, dtype=np.float32)[None].repeat(2, 0)
    assert Top5().per_example(ten, np.array([5, 4]), ten).tolist() == [True, False]


def test_loss_is_cross_entropy_in_nats() -> None:
    assert Loss().per_example(LOGITS, LABELS, LOGITS) == pytest.approx(-np.log([0.5, 0.1]), rel=1e-6)


def test_kl_is_from_the_original_to_this_and_zero_at_home() -> None:
    p, q = np.exp(OTHER[0]), np.exp(LOGITS[0])
    result = Kl().per_example(LOGITS, None, OTHER)
    assert result == pytest.approx([(p * np.log(p / q)).sum(), 0], abs=1e-6)
    assert Kl().per_example(LOGITS, None, LOGITS).tolist() == [0, 0]


def test_kl_is_never_below_zero_by_rounding() -> None:
    logits = np.random.default_rng(0).normal(size=(500, 10)).astype(np.float32)
    assert (Kl().per_example(logits * np.float32(1 + 1e-7), None, logits) >= 0).all()


def test_flips_are_predictions_that_differ_from_the_originals() -> None:
    assert Flips().per_example(LOGITS, None, OTHER).tolist() == [True, False]


def test_a_shift_of_all_logits_changes_nothing() -> None:
    for metric in (Top1(), Top5(), Loss(), Kl(), Flips()):
        moved, still = (metric.per_example(values, LABELS, OTHER) for values in (LOGITS + 7, LOGITS))
        assert moved.astype(float) == pytest.approx(still.astype(float), abs=1e-5)


@pytest.mark.parametrize("metric", [Top1(), Top5(), Loss()], ids=lambda metric: metric.name)
def test_a_metric_that_needs_labels_says_what_could_do_without(metric: ExampleMetric) -> None:
    with pytest.raises(DataError, match=f"{metric.name} needs labels; the evaluation data has none: kl and flips"):
        metric.per_example(LOGITS, None, LOGITS)


@pytest.mark.parametrize("metric", [Top1(), Top5(), Loss()], ids=lambda metric: metric.name)
def test_a_label_that_the_model_does_not_know_is_told_and_not_scored_as_wrong(metric: ExampleMetric) -> None:
    with pytest.raises(DataError, match=f"{metric.name}: label 3 is outside the model's 3 classes, 0 to 2"):
        metric.per_example(LOGITS, np.array([0, 3]), LOGITS)


def test_only_examples_near_enough_to_turn_may_differ_on_another_host() -> None:
    """Outputs that differ by 0.1 bring two of them nearer by 0.2 at most."""
    logits = np.array([[2.0, 1.85, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [3, 2.75, 2, 1, 0.5, 0.4], [0, 0, 0, 0, 0, 5]])
    assert slack(Top1(), 0.5, 0.1, logits, 4) == slack(Flips(), 0.5, 0.1, logits, 4) == 0.25
    assert slack(Top5(), 0.5, 0.1, logits, 4) == 1  # zeros are as good as each other
    assert slack(Top5(), 0.5, 0.1, logits[2:3], 1) == 1
    assert slack(Top5(), 0.5, 0.04, logits[2:3], 1) == 0
    assert slack(Top5(), 0.5, 0.1, logits[:, :4], 4) == 0  # all are among the first five
    assert slack(Flips(), 0.02, 0.001, None, 100) == pytest.approx(0.012)  # a language model's: outputs are not kept
    assert slack(Macs(), 1000, 0.1, None, 4) == 0


def test_a_shift_of_outputs_moves_a_loss_by_two_shifts_at_most() -> None:
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(50, 6)), random.integers(0, 6, 50)
    for _ in range(20):
        moved = logits + random.uniform(-0.1, 0.1, logits.shape)
        moves = [Loss().per_example(x, labels, logits).mean() for x in (logits, moved)]
        assert abs(moves[1] - moves[0]) <= slack(Loss(), moves[0], 0.1, logits, 50) == 0.2
    assert slack(Perplexity(), 20.0, 0.1, None, 50) == pytest.approx(20 * (np.exp(0.2) - 1))
