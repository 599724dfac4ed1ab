"""Mixtures with fewer experts: stock folders that compute what the whole does with the others hidden."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import write_family
from language_world import context, logits, require_same_after_a_kill, write_folder, write_tokenizer
from tiny import faults, write_plan
from torch import Tensor, nn

from squeeze.algorithms.experts import ExpertScores, merged
from squeeze.errors import ModelError
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Preview
from squeeze.passes.prune.prune_experts import PruneExperts
from squeeze.passes.quantize.gptq import Gptq

HALF = PruneExperts(ratio=0.5)
TOKENS = np.random.default_rng(0).integers(3, 126, (16, 12))
PLAN = """\
model: {hf: .}
data:
  calibrate: {text: calibrate.txt, length: 16}
  evaluate: {text: evaluate.txt, length: 16}
metrics: [perplexity, parameters]
passes:
  - {pass: prune_experts, ratio: 0.5}
"""


def mixture(folder: Path, **changes: Any) -> LanguageModel:
    return LanguageModel(
        write_folder(folder, "Mixtral", **{"num_local_experts": 4, "num_experts_per_tok": 2} | changes)
    )


def stock_logits(module: nn.Module) -> Tensor:
    with torch.no_grad():
        output: Tensor = module(input_ids=torch.from_numpy(TOKENS[:2])).logits
    return output


@pytest.mark.parametrize("family", ["mixtral", "qwen3-moe"])
def test_a_stock_folder_computes_what_the_whole_does_with_the_others_out_of_sight(tmp_path: Path, family: str) -> None:
    from transformers import AutoModelForCausalLM

    dense, lent = LanguageModel(write_family(family, tmp_path / "dense")), context(TOKENS)
    narrow = HALF.run(dense, lent)
    narrow.save_dense(tmp_path / "stock")
    stock: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "stock").eval()
    whole: Any = dense.whole()
    for index, (layer, other) in enumerate(zip(whole.model.layers, stock.model.layers, strict=True)):
        kept = torch.tensor(lent.facts["layers"][f"model.layers.{index}.mlp.experts"]["kept"])
        assert torch.equal(other.mlp.gate.weight, layer.mlp.gate.weight[kept])
        layer.mlp.gate.forward = seeing_only(kept, other.mlp.gate)
    torch.testing.assert_close(stock_logits(stock), stock_logits(whole), rtol=1e-4, atol=1e-4)
    assert lent.facts["experts"] == [4, 2]
    assert narrow.parameters() < 0.8 * dense.parameters()


def seeing_only(kept: Tensor, router: nn.Module) -> Any:
    """The way of a router among fewer experts, under the numbers that they have among all."""

    def route(hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores, shares, places = router(hidden)
        return scores, shares, kept[places]

    return route


def test_those_leave_whose_answers_times_their_shares_are_least(tmp_path: Path) -> None:
    """By loops over the stock model's tokens and experts."""
    dense, lent = mixture(tmp_path), context(TOKENS)
    PruneExperts(experts=1).run(dense, lent)
    layer: Any = dense.whole().model.layers[0].mlp  # type: ignore[union-attr, index]
    seen: list[Tensor] = []
    layer.gate.register_forward_pre_hook(lambda _, args: seen.append(args[0].reshape(-1, 64)))
    whole: Any = dense.whole()
    whole.model.layers[0].mlp = layer
    with torch.no_grad():
        whole(input_ids=torch.from_numpy(TOKENS))
        sums, counts = torch.zeros(4), torch.zeros(4)
        for x in seen[0]:
            _, shares, places = layer.gate(x[None])
            for expert, share in zip(places[0].tolist(), shares[0], strict=True):
                gate, up = (layer.experts.gate_up_proj[expert] @ x).chunk(2)
                sums[expert] += share * (layer.experts.down_proj[expert] @ (nn.functional.silu(gate) * up)).norm()
                counts[expert] += 1
    fact = lent.facts["layers"]["model.layers.0.mlp.experts"]
    assert sorted({0, 1, 2, 3} - set(fact["kept"])) == [int((sums / counts).argmin())]
    assert fact["share"] == pytest.approx(1 - float(sums[(sums / counts).argmin()] / sums.sum()), abs=1e-4)
    assert fact["tokens"] == TOKENS.size


def test_an_expert_that_nobody_asks_leaves_first() -> None:
    scores = ExpertScores(3)
    scores.add(torch.ones(4, 2), torch.tensor([[0], [0], [2], [2]]), torch.ones(4, 1), lambda rows, expert: rows)
    assert scores.importance().tolist() == [pytest.approx(2**0.5), 0, pytest.approx(2**0.5)]


def test_an_expert_that_leaves_joins_its_twin(tmp_path: Path) -> None:
    scores = ExpertScores(3, sample=4)
    factors = [1.0, -1.0, 1.1]
    hidden, places = torch.ones(6, 2), torch.tensor([[0], [0], [0], [1], [1], [2]])
    scores.add(hidden, places, torch.ones(6, 1), lambda rows, expert: rows * factors[expert])
    assert (scores.nearest(2, [0, 1]), scores.left) == (0, 0)
    weights = torch.tensor(factors)[:, None].expand(3, 5)
    together = merged(weights, [0, 1], {2: 0}, scores.tokens)
    torch.testing.assert_close(together[:, 0], torch.tensor([(3 * 1.0 + 1.1) / 4, -1.0]))
    dense, lent = mixture(tmp_path), context(TOKENS)
    result = PruneExperts(experts=2, merge=True).run(dense, lent)
    joins = lent.facts["layers"]["model.layers.0.mlp.experts"]["joins"]
    assert len(joins) == 2
    name = "model.layers.0.mlp.experts.down_proj"
    kept = lent.facts["layers"]["model.layers.0.mlp.experts"]["kept"]
    joined = [place for place, expert in enumerate(kept) if expert in joins.values()]
    moved = (result.tensor(name) - dense.tensor(name)[kept]).flatten(1).norm(dim=1)
    assert [place for place, by in enumerate(moved.tolist()) if by > 0] == joined


def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    dense, pass_ = mixture(tmp_path / "dense"), PruneExperts(experts=1, merge=True)
    require_same_after_a_kill(pass_, dense, tmp_path / "journal", TOKENS)


@pytest.mark.parametrize("family", ["mixtral", "qwen3-moe"])
def test_the_preview_is_what_comes_out_and_gptq_goes_on_with_it(tmp_path: Path, family: str) -> None:
    dense = LanguageModel(write_family(family, tmp_path))
    pass_ = PruneExperts(parameters="85 %")
    before = Preview((), dense.parameters(), sum(p.nbytes for p in dense.skeleton.module.parameters()), dense.macs())
    foretold = pass_.preview(LanguageModel(dense.folder), before)
    result = pass_.run(dense, context(TOKENS))
    assert foretold.parameters == result.parameters() <= 0.85 * dense.parameters()
    assert foretold.nbytes == sum(value.nbytes for value in result.skeleton.module.parameters())
    assert "model.layers.1.mlp.gate.weight" in foretold.touched
    rounded = Gptq(bits=4, group_size=16).run(result, context(TOKENS))
    assert any("experts" in name for name in rounded.grid)
    assert torch.isfinite(logits(rounded)).all()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"ratio": 0.9}, r"ratio 0\.9 removes 4 of 4 experts, and a token is sent to 2; 1 to 2 would do"),
        ({"ratio": 0.1}, r"ratio 0\.1 removes 0 of 4 experts"),
        ({"experts": 3}, r"experts 3 removes 3 of 4 experts, and a token is sent to 2; 1 to 2 would do"),
        ({"parameters": "10 %"}, r"10 % cannot be reached by experts: [\d,]+ of [\d,]+ \(\d+%\) is the least"),
        ({"parameters": "100M"}, r"the model has [\d,]+, no more than 100M allows; there is nothing to cut"),
    ],
)
def test_a_goal_that_the_model_cannot_meet_is_one_line(tmp_path: Path, options: dict[str, Any], line: str) -> None:
    model = mixture(tmp_path)
    (message,) = PruneExperts(**options).faults(model)
    assert message.startswith("prune_experts: ")
    with pytest.raises(ModelError, match=line):
        PruneExperts(**options).run(model, context())


@pytest.mark.parametrize(
    ("family", "changes", "line"),
    [
        ("Llama", {}, "model_type 'llama' is no mixture of experts; prune_width and prune_depth cut others"),
        ("Mixtral", {"num_local_experts": 2}, "removes 1 of 2 experts, and a token is sent to 2; all have to stay"),
    ],
)
def test_a_model_without_experts_to_spare_is_refused(
    tmp_path: Path, family: str, changes: dict[str, Any], line: str
) -> None:
    (fault,) = HALF.faults(LanguageModel(write_folder(tmp_path, family, **changes)))
    assert line in fault


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("ratio: 0.5", "ratio: 1", "7: prune_experts: ratio is 1; input should be less than 1"),
        ("ratio: 0.5", "ratio: 0", "7: prune_experts: ratio is 0; input should be greater than 0"),
        ("ratio: 0.5", "experts: 1, ratio: 0.5", "7: prune_experts: name one of ratio, parameters, size and experts"),
        ("ratio: 0.5", "experts: 0", "7: prune_experts: experts is 0; input should be greater than 0"),
        ("ratio: 0.5", "expert: 1", "7: prune_experts: unknown option 'expert'; did you mean 'experts'?"),
    ],
)
def test_options_that_cannot_be_are_one_line(tmp_path: Path, old: str, new: str, line: str) -> None:
    assert any(line in fault for fault in faults(write_plan(tmp_path, PLAN.replace(old, new))))


def test_a_plan_prunes_a_mixture_and_its_row_says_so(tmp_path: Path) -> None:
    from squeeze.api import compress, load

    write_tokenizer(write_folder(tmp_path, "Mixtral", num_local_experts=4, num_experts_per_tok=2))
    for name, text in (
        ("calibrate", "the sea is wide and the night is long. "),
        ("evaluate", "a ship came by night. "),
    ):
        (tmp_path / f"{name}.txt").write_text(text * 30)
    before, after = compress(load(write_plan(tmp_path, PLAN)), store=tmp_path / "store").ledger.rows
    assert (before.name, after.facts["experts"]) == ("original", [4, 2])
    assert (after.scores["parameters"].value or 0) < (before.scores["parameters"].value or 0)
