"""The straight line on real digits: rows, effects, resume, packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import squeeze as sq
from squeeze.algorithms.stats import Interval
from squeeze.api import compress
from squeeze.budget import Judgement, parse_bound
from squeeze.errors import BudgetBroken, EffectError, PlanError
from squeeze.evaluate.metrics import Loss
from squeeze.ledger import Ledger
from squeeze.models.base import InputSpec
from squeeze.models.source import FactorySource
from squeeze.passes.base import Context, Pass
from squeeze.run import Failure, Run, RunFailed
from squeeze.store import Store
from squeeze.targets.verify import open_package, verify

FAST: tuple[Any, ...] = (sq.Top1(), sq.Loss(), sq.Kl(), sq.Flips(), sq.SizeBytes(), sq.Parameters(), sq.Macs())


def digits(split: str, samples: int = 128) -> sq.Dataset:
    return sq.DigitsData(builtin="digits", split=split, samples=samples).open(Path())  # type: ignore[arg-type]


def untrained() -> sq.TorchModel:
    torch.manual_seed(0)
    source = FactorySource("tiny:network", (("width", 64), ("channels", 1), ("classes", 10)))
    return sq.TorchModel(source.build(), source, (InputSpec("image", (1, 8, 8)),))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


class Scale(Pass[sq.TorchModel, sq.TorchModel]):
    """Multiply the classifier's weights."""

    promises = frozenset({"weights_changed"})
    factor: float = 2.0

    def run(self, model: sq.TorchModel, context: Context) -> sq.TorchModel:
        CALLS.append(self.factor)
        with torch.no_grad():
            model.module.get_submodule("4").weight.mul_(self.factor)  # type: ignore[union-attr,operator]
        context.facts["factor"] = self.factor
        return model


CALLS: list[float] = []


@pytest.fixture(autouse=True)
def fresh_calls() -> None:
    CALLS.clear()


def carried_out(plan: sq.Plan, store: Store | Path, model: sq.TorchModel | None = None, **options: Path) -> Run:
    """The plan on the digits; they are its evaluation data."""
    return compress(plan, model=model or untrained(), data={"evaluate": digits("evaluate")}, store=store, **options)


def test_every_pass_gets_a_row_with_paired_deltas(store: Store) -> None:
    plan = sq.Plan([Scale(factor=2.0), Scale(factor=0.5)], metrics=FAST)
    ledger = carried_out(plan, store).ledger
    assert [row.name for row in ledger.rows] == ["original", "scale", "scale"]
    last = ledger.rows[-1].scores
    assert last["flips"].value == 0  # doubled and halved: the very same predictions
    assert last["kl"].to_original is not None
    assert last["kl"].to_original.verdict == "same"
    assert ledger.rows[1].scores["kl"].value > 0
    assert ledger.rows[1].facts == {"factor": 2.0}


def test_a_second_run_takes_every_pass_from_the_store(store: Store) -> None:
    plan = sq.Plan([Scale(factor=3.0)], metrics=FAST)
    first, second = (carried_out(plan, store) for _ in range(2))
    assert CALLS == [3.0]
    assert first.ledger.to_json(timings=False) == second.ledger.to_json(timings=False)


@pytest.mark.parametrize("change", ["option", "seed", "weights"])
def test_whatever_makes_a_result_makes_its_key(store: Store, change: str) -> None:
    model = untrained()
    carried_out(sq.Plan([Scale(factor=3.0)], metrics=FAST), store, model)
    if change == "weights":
        with torch.no_grad():
            model.module.get_submodule("4").bias.add_(1)  # type: ignore[union-attr,operator]
    factor = 4.0 if change == "option" else 3.0
    other = sq.Plan([Scale(factor=factor)], metrics=FAST, seed=int(change == "seed"))
    carried_out(other, store, model)
    assert len(CALLS) == 2


def test_a_pass_that_changes_nothing_fails_by_name_and_leaves_nothing(store: Store) -> None:
    plan = sq.Plan([Scale(factor=1.0)], metrics=FAST)
    for _ in range(2):  # a failure is never kept: the second run tries again
        message = r"passes\.0: scale promises changed weights, but wrote the very bytes"
        with pytest.raises(RunFailed, match=message) as failed:
            carried_out(plan, store)
        assert isinstance(failed.value.__cause__, EffectError)
        assert failed.value.run.failure == Failure("scale", None, str(failed.value))
        assert [row.name for row in failed.value.run.ledger.rows] == ["original"]  # what was measured is not lost
    assert CALLS == [1.0, 1.0]
    assert [entry.what for entry in store.entries() if entry.what == "scale"] == []


def test_a_ratio_that_rounds_to_no_channel_fails_by_name(store: Store) -> None:
    plan = sq.Plan([sq.PruneChannels(ratio=0.001)], metrics=FAST)
    with pytest.raises(PlanError, match=r"prune_channels: ratio 0\.001 rounds to no channel"):
        carried_out(plan, store)


def test_a_selector_that_matches_nothing_is_a_fault_before_anything_runs(store: Store) -> None:
    plan = sq.Plan([Scale(), sq.PruneChannels(ratio=0.5, include=("*.frist.*",))], metrics=FAST)
    with pytest.raises(PlanError, match="frist"):
        carried_out(plan, store)
    assert CALLS == []


def test_training_on_evaluation_data_is_refused(store: Store) -> None:
    plan = sq.Plan([sq.Finetune(epochs=1)], metrics=FAST)
    with pytest.raises(PlanError, match=r"128 of 128 examples are also in data\.train"):
        compress(
            plan, model=untrained(), data={"evaluate": digits("evaluate"), "train": digits("evaluate")}, store=store
        )


def test_the_given_model_is_not_changed(store: Store) -> None:
    model = untrained()
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    carried_out(sq.Plan([Scale(factor=5.0)], metrics=FAST), store, model)
    assert all(torch.equal(before[name], value) for name, value in model.module.state_dict().items())


def test_the_teacher_is_the_original_and_not_the_pruned_model(store: Store) -> None:
    calls: list[int] = []

    class Look(Pass[sq.TorchModel, sq.TorchModel]):
        """Count the teacher's parameters."""

        def run(self, model: sq.TorchModel, context: Context) -> sq.TorchModel:
            calls.append(context.load_original().parameters())
            return model

    model = untrained()
    carried_out(sq.Plan([sq.PruneChannels(ratio=0.5), Look()], metrics=FAST), store, model)
    assert calls == [model.parameters()]


def test_a_pruned_model_comes_back_from_the_store_as_it_was(store: Store) -> None:
    plan = sq.Plan([sq.PruneChannels(ratio=0.5)], metrics=FAST)
    first = carried_out(plan, store).models[None]
    second = carried_out(plan, store).models[None]
    batch = digits("evaluate").batch(np.arange(8))
    assert torch.equal(first.predict(batch), second.predict(batch))
    assert first.parameters() < untrained().parameters()


def test_branches_share_the_trunk_and_end_in_verified_packages(store: Store, tmp_path: Path) -> None:
    targets = {"desk": (sq.Cpu(), [sq.ExportOnnx()]), "phone": (sq.Mobile(), [sq.ExportOnnx(), sq.Float16()])}
    plan = sq.Plan([Scale(factor=2.0)], targets, metrics=FAST, name="two")
    run = carried_out(plan, store, out=tmp_path / "out")
    assert [(row.branch, row.name) for row in run.ledger.rows[1:]] == [
        (None, "scale"),
        ("desk", "export_onnx"),
        ("desk", "cpu"),
        ("phone", "export_onnx"),
        ("phone", "float16"),
        ("phone", "mobile"),
    ]
    assert CALLS == [2.0]
    for name in ("desk", "phone"):
        assert verify(open_package(tmp_path / "out" / f"two-{name}.zip")).bit_equal


@pytest.mark.usefixtures("in_this_process")
def test_the_same_run_packs_the_same_bytes_but_for_measurements(tmp_path: Path) -> None:
    metrics = (*FAST, sq.Latency(seconds=0.02, sessions=4))
    plan = sq.Plan([Scale(factor=2.0)], {"cpu": (sq.Cpu(), [sq.ExportOnnx()])}, metrics=metrics)
    digests = []
    for name in ("a", "b"):  # nothing shared: own store, own output
        run = carried_out(plan, tmp_path / name, out=tmp_path / f"out-{name}")
        digests.append(run.packages["cpu"].digest)
    assert digests[0] == digests[1]


def test_a_broken_budget_is_told_with_its_numbers(store: Store) -> None:
    plan = sq.Plan([Scale(factor=2.0)], metrics=FAST, budget={"size": "<= 30 %"})
    run = carried_out(plan, store)
    with pytest.raises(BudgetBroken, match=r"size_bytes: <= 30 % of the original: measured 100.0 %: broken"):
        run.require_budget()


@pytest.mark.parametrize("strict", [False, True], ids=["lenient", "strict"])
def test_an_unproven_bound_breaks_the_budget_only_when_the_plan_is_strict(store: Store, strict: bool) -> None:
    plan = sq.Plan([Scale()], metrics=FAST, strict=strict)
    run = Run(plan, Ledger(None), store)
    run.judgements.append((None, Judgement(parse_bound(Loss(), "+1 %"), 1.0, Interval(0.9, 1.1), "unproven")))
    assert bool(run.broken) == strict
