"""Which weights a training changes: some of them, low-rank adapters, or those that lie on a grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from language_world import in_shards, write_folder, write_tokenizer
from test_language_training import context, counting, loss_of
from tiny import faults
from torch import nn

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.algorithms.rtn import round_to_nearest
from squeeze.errors import EffectError
from squeeze.models.base import Batch
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.distill.distill import Distill
from squeeze.passes.distill.finetune import Finetune
from squeeze.passes.quantize.rtn import Rtn
from squeeze.training.adapters import Adapters
from squeeze.training.on_grid import SPEED, OnGrid, put_on_grid, take_off_grid
from squeeze.training.proof import require_written

SETTINGS = {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3, "warm_up": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="module")
def learnt(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """A model that predicts the counting text: what quantization damages."""
    place = tmp_path_factory.mktemp("learnt")
    return in_shards(Finetune(**SETTINGS | {"epochs": 6}).run(LanguageModel(folder), context(place)))


def changed(before: LanguageModel, after: LanguageModel) -> set[str]:
    return {name for name in before.skeleton.names() if not torch.equal(before.tensor(name), after.tensor(name))}


LORA = {
    f"model.layers.{block}.{part}.weight"
    for block in (0, 1)
    for part in (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    )
}
TRAINED = {
    "norms": ({}, lambda name: "norm" in name),
    "last_blocks": ({"blocks": 1}, lambda name: name.startswith("model.layers.1.")),
    "lora": ({"rank": 4}, lambda name: name in LORA),
}


@pytest.mark.parametrize("train", TRAINED)
def test_only_the_weights_that_train_names_change_and_the_loss_falls(tmp_path: Path, folder: Path, train: str) -> None:
    options, matches = TRAINED[train]
    before, lent = LanguageModel(folder), context(tmp_path)
    after = Finetune(**SETTINGS, train=train, **options).run(before, lent)
    assert changed(before, after) == {name for name in before.skeleton.names() if matches(name)}
    assert loss_of(after) < loss_of(before)
    assert 0 < lent.facts["trained"] < before.parameters() / 2
    assert lent.facts["tokens"] == 2 * 32 * 16


def test_merged_adapters_compute_what_the_linear_did_with_them() -> None:
    torch.manual_seed(0)
    linear, inputs = nn.Linear(12, 8), torch.randn(5, 12)
    adapters = Adapters([linear], 3, seed=0)
    nn.init.normal_(linear.adapter.up)
    with_adapter = linear(inputs)
    (update,) = adapters.take_off()
    linear.weight.data += update.weight()
    torch.testing.assert_close(linear(inputs), with_adapter)
    assert list(dict(linear.named_parameters())) == ["weight", "bias"]


def test_blocks_worked_out_again_give_the_same_gradients(tmp_path: Path, folder: Path) -> None:
    plain, again = (
        in_shards(
            Finetune(**SETTINGS, recompute=recompute).run(LanguageModel(folder), context(tmp_path / str(recompute)))
        )
        for recompute in (False, True)
    )
    for name in plain.skeleton.names():
        torch.testing.assert_close(plain.tensor(name), again.tensor(name), rtol=0, atol=1e-5)


def quantized(model: LanguageModel, place: Path, **options: object) -> LanguageModel:
    context_ = Context(journal=context(place).journal)
    return in_shards(Rtn(**{"bits": 2, "group_size": 16} | options).run(model, context_))


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("how", ["scales", "all"])
def test_training_on_the_grid_wins_back_what_rounding_lost(tmp_path, learnt, how, symmetric) -> None:
    before = quantized(learnt, tmp_path / "rtn", symmetric=symmetric, embeddings=8)
    lent = context(tmp_path / "distill", learnt.folder)
    pass_ = Distill(steps=20, batch_size=8, learning_rate=3e-3, quantized=how)
    after = in_shards(pass_.run(before, lent))
    assert loss_of(after) - loss_of(learnt) < 0.8 * (loss_of(before) - loss_of(learnt))
    assert not list(pass_.check_effect(before, after, lent.facts))
    assert after.grid_kinds() == before.grid_kinds()
    moved = lent.facts["grid"]["moved"]
    assert (moved["integers"][0] > 0) == (how == "all")
    assert moved["scales"][0] > 0
    assert lent.facts["grid"]["proven"] == [14, 14]
    assert torch.equal(after.quantized("model.embed_tokens.weight").q, before.quantized("model.embed_tokens.weight").q)


GRIDS = {
    "symmetric": lambda W: round_to_nearest(W, 3, 8, True),
    "asymmetric": lambda W: round_to_nearest(W, 3, 8, False),
    "per-channel": lambda W: round_to_nearest(W, 4, None, True),
    "act-order": lambda W: replace(
        round_to_nearest(W, 3, 8, False), g_idx=torch.arange(32, dtype=torch.int32)[torch.randperm(32)] // 8
    ),
}


@pytest.mark.parametrize("integers", [False, True], ids=["scales", "all"])
@pytest.mark.parametrize("kind", GRIDS)
def test_what_a_module_computes_with_is_the_grid_that_is_given_back(kind: str, integers: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(32, 6, bias=False)
    grid = GRIDS[kind](linear.weight.detach())
    put_on_grid(linear, "weight", grid, integers)
    assert torch.equal(linear.weight, grid.dequantize())  # nothing has moved yet
    optimizer = torch.optim.AdamW([p for p in linear.parameters() if p.requires_grad], 0.05)
    for _ in range(5):
        optimizer.zero_grad()
        linear(torch.randn(16, 32)).square().mean().backward()
        optimizer.step()
    weight = linear.weight.detach().clone()
    result = take_off_grid(linear, "weight")
    assert torch.equal(result.dequantize(), weight)
    assert torch.equal(linear.weight, weight)
    assert torch.equal(result.scale, result.scale.half().float())
    assert not torch.equal(result.scale, grid.scale)
    assert torch.equal(result.q, grid.q) != integers
    if not grid.symmetric:
        assert not torch.equal(result.zero_point, grid.zero_point)
        assert result.zero_point.min() >= -4
        assert result.zero_point.max() <= 3


def test_a_step_size_has_the_gradient_of_lsq() -> None:
    """d(w_hat)/d(scale) is ``round(w / scale) - w / scale`` inside the grid and its end where the weight is clipped."""
    grid = QuantizedTensor(
        torch.tensor([[1, 1]], dtype=torch.int8), torch.tensor([[0.5]]), torch.zeros(1, 1), 2, None, True
    )
    for weight, expected in (([[0.3, 0.0]], 1 - 0.6), ([[4.0, 0.0]], 1.0)):
        layer = OnGrid(grid, torch.Size([1, 2]), integers=True)
        layer(torch.tensor(weight)).sum().backward()
        assert layer.scale.grad.item() == pytest.approx(SPEED * 0.5 * expected, rel=1e-5)  # of a share of the scale


def test_a_grid_that_was_not_the_trained_one_is_found(tmp_path: Path, learnt: LanguageModel) -> None:
    before = quantized(learnt, tmp_path / "rtn")
    grids = {name: before.quantized(name) for name in before.grid}
    student = before.resident()
    require_written(student, before, grids, grids)
    name = next(iter(grids))
    q = grids[name].q.clone()
    q[0, 0] -= 1
    with pytest.raises(EffectError, match=f"{name}: what was written is not what was trained"):
        require_written(student, before, grids | {name: replace(grids[name], q=q)}, grids)


def test_a_pass_that_moves_integers_it_promised_to_leave_is_found(tmp_path: Path, learnt: LanguageModel) -> None:
    before, other = quantized(learnt, tmp_path / "a"), quantized(learnt, tmp_path / "b", clip="mse")
    (line,) = Distill(quantized="scales").check_effect(before, other, {})
    assert line.startswith("promises integers that stay, and moved those of model.layers.0.")
    (line,) = Distill(quantized="all").check_effect(before, quantized(learnt, tmp_path / "c", bits=3), {})
    assert line == "promises the grids that it was given, and left others"


@pytest.mark.parametrize("divergence", ["reverse", "skewed"])
def test_every_divergence_brings_a_student_nearer(tmp_path: Path, learnt: LanguageModel, divergence: str) -> None:
    before = quantized(learnt, tmp_path / "rtn", bits=3)
    tokens = Batch({"input_ids": torch.from_numpy(counting().tokens)})
    expected = learnt.predict(tokens).softmax(-1)
    pass_ = Distill(steps=20, batch_size=8, learning_rate=3e-3, quantized="all", divergence=divergence)
    after = pass_.run(before, context(tmp_path, learnt.folder))
    far, near = ((model.predict(tokens).softmax(-1) - expected).abs().mean() for model in (before, after))
    assert near < 0.8 * far


PLAN = """\
model: {hf: ./model}
data:
  train: {text: train.txt, length: 16}
  evaluate: {text: train.txt, length: 16}
metrics: [size]
passes:
  - {pass: rtn, bits: 2, group_size: 16}
  - {pass: distill, quantized: scales, epochs: 1}
"""
FAULTS: dict[tuple[str, ...], str] = {
    ("passes.1.quantized=null",): "distill must come before rtn (line 7), which leaves the weights quantized",
    ("passes.0={pass: finetune, epochs: 1}",): "quantized: scales trains weights on their grid, and none lies on one",
    ("passes.1.train=norms",): "train names weights that are floats; quantized: scales says what is trained",
    ("passes.1.patience=2",): "patience is of the examples that held_out sets apart, and it sets none",
    ("passes.1.quantized=integers",): "quantized is 'integers'",
    ("passes.1.rank=0",): "rank is 0; input should be greater than 0",
    ("passes.0={pass: finetune, train: last_blocks, blocks: 3}",): "blocks: 3 are the last of the model's 2; fewer",
    ("passes.0={pass: finetune, train: lora, blocks: 3}",): "blocks goes with train: last_blocks",
    ("passes.1.steps=5",): "epochs is how long a training lasts that has no steps",
}


def plan_faults(folder: Path, plan: str, *settings: str) -> list[str]:
    """What is wrong with a plan for a tiny Llama and a text, both of which it finds beside itself."""
    if not (folder / "model").is_dir():
        write_tokenizer(write_folder(folder / "model"))
        (folder / "train.txt").write_text("a small house at the edge of the wood " * 20)
    (folder / "plan.yaml").write_text(plan)
    return faults(folder / "plan.yaml", *settings)


@pytest.mark.parametrize("settings", FAULTS, ids=lambda one: one[0])
def test_what_cannot_be_trained_on_a_grid_is_a_fault(tmp_path: Path, settings: tuple[str, ...]) -> None:
    assert not plan_faults(tmp_path, PLAN, "passes.1.epochs=1")
    messages = plan_faults(tmp_path, PLAN, *settings)
    assert any(FAULTS[settings] in line for line in messages), messages
