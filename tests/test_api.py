"""The Python face: three verbs over a plan that knows none of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import PLAN, write_plan, write_world

import squeeze as sq
from squeeze.errors import UsageError


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return write_world(tmp_path)


def test_a_plan_is_loaded_checked_and_carried_out(world: Path) -> None:
    plan = sq.load(write_plan(world), ["passes.0.factor=3.0"])
    assert sq.check(plan) == []
    run = sq.compress(plan, store=world / "store")
    assert run.ledger.rows[1].facts == {}
    assert run.ledger.rows[1].options == {"factor": 3.0}


def test_the_ways_of_the_version_before_still_work_and_name_the_new_ones(world: Path) -> None:
    with pytest.warns(FutureWarning, match=r"Plan\.load\(path\) is now squeeze\.load\(path\); the old way ends with"):
        plan = sq.Plan.load(write_plan(world, PLAN, ("tiny.safetensors}", "tiny.safetensors, input: [3, 6, 6]}")))
    with pytest.warns(FutureWarning, match=r"plan\.check\(\) is now squeeze\.check\(plan\)"):
        assert plan.check() == []
    data = plan.open_data("evaluate")
    with pytest.warns(FutureWarning, match=r"plan\.run\(\.\.\.\) is now squeeze\.compress\(plan, model=..., data="):
        run = plan.run(evaluate=data, store=world / "store")
    assert [row.name for row in run.ledger.rows] == ["original", "scale"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"plan": "plan.yaml"}, r"plan: 'plan\.yaml' is no plan; load\('plan\.yaml'\)"),
        ({"model": 3}, "model: 3 is no model; TorchModel"),
        ({"data": {"evalaute": None}}, "data has no 'evalaute'; did you mean 'evaluate'"),
        ({"data": {"evaluate": [1, 2]}}, r"data\.evaluate: \[1, 2\] is no dataset; DigitsData"),
        ({"data": {3: None}}, "data has no '3'; there is calibrate, evaluate, train"),
    ],
    ids=str,
)
def test_an_argument_of_another_kind_is_one_line(arguments: dict[str, Any], message: str) -> None:
    plan = arguments.pop("plan", sq.Plan())
    for verb in (sq.check, sq.compress):
        with pytest.raises(UsageError, match=message):
            verb(plan, **arguments)
