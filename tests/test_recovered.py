"""Recovered: the share of what passes took that a training gave back, paired, and only where something was taken."""

from __future__ import annotations

import numpy as np
import pytest
from test_ledger import LABELS, logits, measured

from squeeze.evaluate.metrics import Kl, Loss, Metric, Top1
from squeeze.ledger import Measured, Recovered, Row, recovered
from squeeze.recovered import _share
from squeeze.report.facts import fact_lines
from squeeze.report.shape import Row as ShownRow


def share(new: float, before: float, original: float, *metrics: Metric) -> dict[str, Recovered]:
    models: list[Measured] = [measured(logits(strength)) for strength in (new, original, before)]
    return recovered(list(metrics), LABELS, *models)


def test_what_comes_back_is_a_share_of_what_was_lost() -> None:
    result = share(2.0, 1.0, 3.0, Loss())["loss"]
    losses = [Loss().values(logits(strength), LABELS, logits(3.0)).mean() for strength in (2.0, 1.0, 3.0)]
    assert result.value == pytest.approx((losses[1] - losses[0]) / (losses[1] - losses[2]))
    assert result.lost == pytest.approx(losses[1] - losses[2])
    assert result.interval is not None
    assert result.interval.low < result.value < result.interval.high
    assert result.interval.low > 0
    assert result.interval.high < 1


def test_all_is_one_and_none_is_nothing() -> None:
    everything, nothing = share(3.0, 1.0, 3.0, Loss(), Kl()), share(1.0, 1.0, 3.0, Loss(), Kl())
    assert {one.value for one in everything.values()} == {1.0}
    assert {one.value for one in nothing.values()} == {0.0}
    assert share(0.5, 1.0, 3.0, Loss())["loss"].value < 0  # it got worse


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Of 2,000 examples, draws of 100: at 95 %, at least nine in ten hold the share of all."""
    draw = np.random.default_rng(0)
    lost = draw.lognormal(0, 0.5, 2000)
    won = lost * 0.6 + draw.normal(0, 0.3, 2000)
    truth, hits = won.sum() / lost.sum(), 0
    for _ in range(60):
        some = draw.integers(0, 2000, 100)
        result = _share(won[some], lost[some], None)
        assert result is not None
        assert result.interval is not None
        hits += result.interval.low <= truth <= result.interval.high
    assert hits >= 54


def test_where_nothing_was_lost_nothing_can_be_recovered() -> None:
    assert share(3.0, 3.0, 3.0, Loss(), Kl()) == {}
    assert share(3.0, 3.0, 1.0, Loss()) == {}  # better than the original already


def test_a_share_of_right_answers_is_no_loss() -> None:
    assert set(share(2.0, 1.0, 3.0, Top1(), Loss(), Kl())) == {"loss", "kl"}


def test_the_report_words_it() -> None:
    row = Row("distill", None, "torch", "k", {}, {}, recovered=share(2.0, 1.0, 3.0, Loss()))
    ((name, line),) = fact_lines(ShownRow.model_validate(row.to_json()))
    assert name == "recovered"
    assert line.endswith("] of what was lost in loss")
    assert line.startswith(f"{100 * row.recovered['loss'].value:.2f} % [")
