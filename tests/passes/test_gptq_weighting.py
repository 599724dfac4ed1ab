"""Errors that the end loss feels count more: the Hessians, what gptq makes of them, and what check says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language_world import context, plan_faults, require_same_after_a_kill, write_folder
from torch import Tensor

from squeeze.blocks.hessians import weighted_inputs
from squeeze.blocks.visit import Visit
from squeeze.blocks.watch import Weight
from squeeze.errors import ModelError
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.effort import Amount
from squeeze.passes.quantize.gptq import Gptq
from squeeze.passes.quantize.weighting import TokenWeights
from squeeze.store import Journal

TOKENS = np.random.default_rng(0).integers(0, 128, (64, 32))
QUERY = Weight("self_attn.q_proj.weight")
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
OPTIONS: dict[str, Any] = {"bits": 2, "group_size": 16}
PLAN = """\
model: {{hf: .}}
data:
  calibrate: {{text: calibrate.txt, length: 16, samples: 4}}
  evaluate: {{text: evaluate.txt, length: 16}}
metrics: [perplexity]
passes:
  - {{pass: gptq, bits: 2, group_size: 16, {options}}}
"""


def heavy_tailed(tokens: int, groups: int) -> Tensor:
    """float32 ``[tokens, groups]``, mean 1: a few tokens count most."""
    weights = torch.randn(tokens, groups, generator=torch.Generator().manual_seed(3)).mul(2).exp()
    return weights / weights.mean(0)


def first_inputs(model: LanguageModel) -> Tensor:
    """float32 ``[tokens, in]`` of the first block's queries."""
    walk = model.walk(torch.from_numpy(TOKENS))
    with model.block(0) as block:
        return block.input_layernorm(walk.hidden).flatten(0, 1)


@pytest.mark.parametrize("groups", [1, 3])
def test_each_group_of_outputs_has_the_hessian_of_tokens_as_they_weigh(tmp_path: Path, groups: int) -> None:
    model = LanguageModel(write_folder(tmp_path))
    X, weights = first_inputs(model), heavy_tailed(TOKENS.size, groups)
    with model.block(0) as block:
        visit = Visit(0, block, model.walk(torch.from_numpy(TOKENS)))
        every = weighted_inputs(visit, [[QUERY]], None, {QUERY: weights})[QUERY]
    assert len(every) == groups
    for inputs, weight in zip(every, weights.unbind(1), strict=True):
        torch.testing.assert_close(inputs.hessian.matrix(), (X.t() * weight) @ X / len(X), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("groups", [1, 2])
def test_errors_are_smaller_where_they_weigh_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: int) -> None:
    """It pays elsewhere: counted equally, the error is larger than gptq's own."""
    model = LanguageModel(write_folder(tmp_path))
    X, weights = first_inputs(model), heavy_tailed(TOKENS.size, groups)

    def fixed(self: TokenWeights, index: int) -> dict[Weight, Tensor]:
        return dict.fromkeys([Weight(name) for name in self.names[index]], weights)

    monkeypatch.setattr(TokenWeights, "_write", lambda self: None)
    monkeypatch.setattr(TokenWeights, "of", fixed)
    results = [
        Gptq(**OPTIONS, weighting=weighting, weighting_groups=groups).run(model, context(TOKENS))
        for weighting in ("equal", "end_loss")
    ]
    name = f"model.layers.0.{QUERY}"
    errors = [(X @ (result.value(name) - model.value(name)).t()).square() for result in results]
    by_group = [torch.stack([part.mean(1) for part in error.tensor_split(groups, dim=1)], dim=1) for error in errors]
    equal, weighted = (float((error * weights).mean()) for error in by_group)
    assert weighted < 0.9 * equal
    assert float(errors[1].mean()) > float(errors[0].mean())


def test_tokens_that_weigh_the_same_change_nothing_but_last_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LanguageModel(write_folder(tmp_path))
    ones = torch.ones(TOKENS.size, 1)
    monkeypatch.setattr(TokenWeights, "_write", lambda self: None)
    monkeypatch.setattr(TokenWeights, "of", lambda self, index: {Weight(name): ones for name in self.names[index]})
    results = [Gptq(**OPTIONS, weighting=weighting).run(model, context(TOKENS)) for weighting in ("equal", "end_loss")]
    for name in model.matrices():
        same = results[0].quantized(name).q == results[1].quantized(name).q
        assert float(same.float().mean()) > 0.98, name


def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    model = LanguageModel(write_folder(tmp_path / "model"))
    pass_ = Gptq(**OPTIONS, weighting="end_loss", weighting_groups=2)
    require_same_after_a_kill(pass_, model, tmp_path / "journal", finished=2 + 2 + 1)  # forwards, backwards, quantized


def test_gradients_are_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A try that was killed behind them leaves them to the next one."""
    model, kept = LanguageModel(write_folder(tmp_path / "model")), context()
    kept.journal = Journal(tmp_path / "journal")
    first = TokenWeights(model, model.matrices(), 2, 0.5, kept)
    expected = first.of(1)
    monkeypatch.setattr(TokenWeights, "_write", lambda self: pytest.fail("taken again"))
    second = TokenWeights(model, model.matrices(), 2, 0.5, kept)
    assert expected[QUERY].shape == (16 * 16, 2)
    assert torch.equal(second.of(1)[QUERY], expected[QUERY])
    torch.testing.assert_close(expected[QUERY].mean(0), torch.ones(2))


def test_a_smaller_power_lets_tokens_count_more_alike(tmp_path: Path) -> None:
    model = LanguageModel(write_folder(tmp_path))
    whole, root = (TokenWeights(model, model.matrices(), 1, power, context()).of(0)[QUERY] for power in (1.0, 0.5))
    torch.testing.assert_close(root, whole.sqrt() / whole.sqrt().mean(0))
    assert float(root.max()) < float(whole.max())


def test_gradients_may_lie_on_disk(tmp_path: Path) -> None:
    model = LanguageModel(write_folder(tmp_path))
    in_memory, on_disk = context(), context()
    on_disk.memory_bytes = 1
    weights = [TokenWeights(model, model.matrices(), 1, 0.5, each).of(0) for each in (in_memory, on_disk)]
    assert all(torch.equal(weights[0][weight], weights[1][weight]) for weight in weights[0])


def test_blocks_that_are_left_alone_are_only_passed(tmp_path: Path) -> None:
    model = LanguageModel(write_folder(tmp_path))
    result = Gptq(**OPTIONS, weighting="end_loss", include=("model.layers.1.*",)).run(model, context())
    assert {name.split(".")[2] for name in result.grid} == {"1"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("weighting: end_loss, order: act_order, weighting_groups: 2", "weighting_groups: 1 would do"),
        ("weighting_groups: 2", "goes with weighting: end_loss"),
    ],
    ids=["one order of columns", "groups of nothing"],
)
def test_check_names_options_that_do_not_go_together(tmp_path: Path, options: str, expected: str) -> None:
    assert any(expected in fault for fault in plan_faults(tmp_path, PLAN.format(options=options)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("weighting: end_loss", "weights hold experts, which do not see every token"),
        ("order: act_order", "weights hold their experts in one tensor"),
    ],
)
def test_check_refuses_what_experts_cannot_have(tmp_path: Path, options: str, expected: str) -> None:
    found = plan_faults(tmp_path, PLAN.format(options=options), "Mixtral", **EXPERTS)
    assert any(re.search(expected, fault) for fault in found), found


def test_a_run_without_check_refuses_experts_too(tmp_path: Path) -> None:
    model = LanguageModel(write_folder(tmp_path, "Mixtral", **EXPERTS))
    with pytest.raises(ModelError, match=r"1.mlp.experts.* sees \d+ of 256 tokens, .*; exclude it, or"):
        Gptq(**OPTIONS, weighting="end_loss").run(model, context())


def test_weights_beside_experts_can_be_weighted(tmp_path: Path) -> None:
    model = LanguageModel(write_folder(tmp_path, "Mixtral", **EXPERTS))
    pass_ = Gptq(**OPTIONS, weighting="end_loss", exclude=("*.experts.*",))
    assert not list(pass_.faults(model))
    assert all("self_attn" in name for name in pass_.run(model, context()).grid)


def test_more_memory_and_time_are_foretold(tmp_path: Path) -> None:
    model, data = LanguageModel(write_folder(tmp_path)), Amount(128, 512)
    equal, one = Gptq(**OPTIONS), Gptq(**OPTIONS, weighting="end_loss")
    four = Gptq(**OPTIONS, weighting="end_loss", weighting_groups=4)
    memory = [pass_.memory_bytes(model, data.tokens, None) for pass_ in (equal, one, four)]
    works = [pass_.work(model, data) for pass_ in (equal, one, four)]
    products = [sum(work.products.values()) for work in works if work is not None]
    assert memory[0] < memory[1] <= memory[2]
    assert len(products) == 3
    assert products[0] < products[1] < products[2]
