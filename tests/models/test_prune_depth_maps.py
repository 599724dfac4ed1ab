"""Removed blocks of a decoder replaced by a linear map in the weight before them: a stock model, and nearer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import gemma3, write_family
from language_world import context, edit, require_same_after_a_kill, write_folder
from test_prune_width import stock, stock_logits
from tiny import Killed
from torch import Tensor

from squeeze.errors import ModelError
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.prune import replacing
from squeeze.passes.prune.prune_depth import PruneDepth
from squeeze.passes.prune.replacing import replace_runs
from squeeze.store import Journal
from squeeze.surgery.depth import loss_without
from squeeze.surgery.replaced import Run, runs_of

FOUR = {"num_hidden_layers": 4}
HALF = 32  # of the hidden channels
DOWN = "mlp.down_proj.weight"


def written(folder: Path, tokens: int = 16, sequences: int = 96) -> np.ndarray:
    """Text that the model itself draws, so that losing a block shows in its loss."""
    model: Any = LanguageModel(folder).whole()
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(0, 128, (sequences, 1), generator=generator)
    with torch.no_grad():
        for _ in range(tokens - 1):
            last = model(input_ids=text).logits[:, -1].softmax(1)
            text = torch.cat([text, torch.multinomial(last, 1, generator=generator)], 1)
    return text.numpy()


def sure(weights: dict[str, Tensor]) -> None:
    weights["lm_head.weight"] *= 4


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return LanguageModel(edit(write_folder(tmp_path_factory.mktemp("dense"), **FOUR), sure))


@pytest.fixture(scope="module")
def text(dense: LanguageModel) -> np.ndarray:
    return written(dense.folder)


def nearly_linear(weights: dict[str, Tensor]) -> None:
    """Block 2 multiplies what block 1's MLP has added: it alone writes into the upper half of the stream.

    Channel 0 is large and the same for all tokens, so that norms and gates hardly depend on the others.
    """
    sure(weights)
    weights["model.embed_tokens.weight"][:, HALF:] = 0
    weights["model.embed_tokens.weight"][:, 0] = 20
    weights["lm_head.weight"][:, 0] = 0
    for index in range(4):
        prefix = f"model.layers.{index}."
        for name in ("self_attn.o_proj.weight", *(() if index == 1 else (DOWN,))):
            weights[prefix + name][HALF:] = 0
            weights[prefix + name][0] = 0
    weights["model.layers.1." + DOWN][0] = 0
    weights["model.layers.1." + DOWN] *= 30
    block = "model.layers.2."
    weights[block + "self_attn.o_proj.weight"].zero_()
    weights[block + "mlp.gate_proj.weight"].zero_()[:, 0] = 1
    weights[block + "mlp.up_proj.weight"][:, :HALF] = 0
    weights[block + DOWN] = torch.randn(64, 96, generator=torch.Generator().manual_seed(1))
    weights[block + DOWN][0] = 0


def test_a_block_that_is_nearly_linear_is_repaired(tmp_path: Path) -> None:
    dense = LanguageModel(edit(write_folder(tmp_path, **FOUR), nearly_linear))
    tokens = torch.from_numpy(written(tmp_path))
    gone, start = frozenset({2}), dense.walk(tokens[:32], wide=True)
    whole, skipped = (loss_without(dense, start, removed) for removed in (frozenset[int](), gone))
    fitted = dense.walk(tokens[32:], wide=True)
    _, repaired = replace_runs(
        dense,
        fitted,
        gone,
        lambda changed: loss_without(dense, start, gone, None, changed),
        skipped,
        context(),
        "depth",
    )
    assert skipped > whole + 0.1  # the block does something
    assert repaired < whole + 0.1 * (skipped - whole)


def expected_weight(dense: LanguageModel, text: np.ndarray, run: Run, damping: float) -> Tensor:
    """W' by hand: all of it in memory, by stock transformers and numpy."""
    model: Any = dense.whole()
    added: list[Tensor] = []
    model.model.layers[run.before].mlp.down_proj.register_forward_hook(lambda module, args, out: added.append(out))
    streams: list[Tensor] = []
    for index in (run.before, run.removed.stop - 1):
        model.model.layers[index].register_forward_hook(lambda module, args, out: streams.append(out))
    with torch.no_grad():
        model(input_ids=torch.from_numpy(text))
    m, before, behind = (each.flatten(0, 1).double().numpy() for each in (*added, *streams))
    size = np.sqrt((behind**2).mean(1, keepdims=True))
    gram = (m / size).T @ (m / size)
    ridge = damping * np.trace(gram) / len(gram) * np.eye(len(gram))
    away = np.linalg.solve(gram + ridge, (m / size).T @ ((behind - before) / size)).T
    weight = dense.tensor(f"{dense.skeleton.prefix(run.before)}{DOWN}").double()
    return (torch.from_numpy(np.eye(len(gram)) + away) @ weight).float()


def test_the_result_is_a_stock_model_whose_weight_is_the_map_times_what_it_was(
    dense: LanguageModel, text: np.ndarray
) -> None:
    lent = context(text)
    result = PruneDepth(blocks=1, replace="linear").run(dense, lent)
    (fact,), (block,) = lent.facts["replaced"]["maps"], [entry["block"] for entry in lent.facts["removed"]]
    assert lent.facts["replaced"]["kept"] == lent.facts["replaced"]["fitted"] == 1
    assert fact["removed"] == [block]
    assert lent.facts["loss"]["after"] == fact["loss"] < lent.facts["removed"][0]["loss"]
    weight = expected_weight(dense, text[32:], Run(block - 1, range(block, block + 1)), fact["damping"])
    torch.testing.assert_close(result.tensor(f"model.layers.{block - 1}.{DOWN}"), weight, rtol=1e-3, atol=1e-4)
    whole: Any = dense.whole()
    whole.model.layers[block - 1].mlp.down_proj.weight.data = weight
    del whole.model.layers[block]
    whole.config.num_hidden_layers = 3
    torch.testing.assert_close(stock_logits(stock(result.folder)), stock_logits(whole), rtol=1e-2, atol=1e-2)
    assert result.parameters() == PruneDepth(blocks=1).run(dense, context(text)).parameters()


def test_a_map_that_does_not_make_the_loss_smaller_is_not_kept(dense: LanguageModel, text: np.ndarray) -> None:
    lent, walk = context(), dense.walk(torch.from_numpy(text[:8]), wide=True)
    changed, loss = replace_runs(dense, walk, frozenset({1, 3}), lambda changed: 2.0, 2.0, lent, "depth")
    assert (changed, loss) == ({}, 2.0)
    assert [fact["kept"] for fact in lent.facts["replaced"]["maps"]] == [False, False]
    assert (lent.facts["replaced"]["kept"], lent.facts["replaced"]["fitted"]) == (0, 2)


def test_a_later_map_is_fitted_behind_those_that_were_kept(
    dense: LanguageModel, text: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes what the new model gives to where the original is, so that it makes up for what others left."""
    seen: list[tuple[Tensor, Tensor]] = []
    measure = replacing.measure_gap

    def noted(model: Any, walk: Any, target: Any, *rest: Any) -> Any:
        seen.append((walk.hidden.clone(), target.hidden.clone()))
        return measure(model, walk, target, *rest)

    monkeypatch.setattr(replacing, "measure_gap", noted)
    tokens = torch.from_numpy(text[:8])
    losses = iter([1.0] + [0.5] * 10)
    walk = dense.walk(tokens, wide=True)
    replace_runs(dense, walk, frozenset({1, 3}), lambda changed: next(losses), 2.0, context(), "depth")
    original = dense.walk(tokens, wide=True)
    states = [original.hidden.clone()]
    for index in range(4):
        with dense.block(index, wide=True):
            original.through(index)
        states.append(original.hidden.clone())
    torch.testing.assert_close(seen[0][0], states[0])
    torch.testing.assert_close(seen[0][1], states[2])
    torch.testing.assert_close(seen[1][1], states[4])
    away = (seen[1][0] - states[2]).norm() / states[2].norm()
    assert 1e-3 < away < 0.9  # in front of block 2 is what the map made of block 1


def test_a_killed_run_goes_on_behind_its_last_map_with_the_same_bytes(
    dense: LanguageModel, text: np.ndarray, tmp_path: Path
) -> None:
    require_same_after_a_kill(PruneDepth(blocks=2, replace="linear"), dense, tmp_path / "pass", text, finished=4 + 2)
    tokens, gone, judged = torch.from_numpy(text[:8]), frozenset({1, 3}), list[int]()

    def fit(lent: Context) -> Any:
        def judge(changed: Any) -> float:
            judged.append(len(changed))
            return 2.0 - len(changed) + float(changed[0][DOWN].norm()) / 1000

        return replace_runs(dense, dense.walk(tokens, wide=True), gone, judge, 2.0, lent, "depth")

    whole, half = context(), context()
    expected = fit(whole)
    half.journal, half.progress = Journal(tmp_path / "runs"), Killed(after=1)
    with pytest.raises(KeyboardInterrupt):
        fit(half)
    half.progress, judged[:] = Context().progress, []
    changed, loss = fit(half)
    assert judged == [2, 2, 2]  # the first map was not judged again
    assert (whole.facts, loss) == (half.facts, expected[1])
    for index, parameters in expected[0].items():
        assert torch.equal(changed[index][DOWN], parameters[DOWN])


@pytest.mark.parametrize(
    ("gone", "runs"),
    [
        ({2}, [Run(1, range(2, 3))]),
        ({1, 2, 5}, [Run(0, range(1, 3)), Run(4, range(5, 6))]),
        ({0, 1, 3}, [Run(2, range(3, 4))]),  # nothing stands before the first
        ({0}, []),
    ],
)
def test_blocks_that_follow_on_each_other_are_one_map(gone: set[int], runs: list[Run]) -> None:
    assert runs_of(frozenset(gone)) == runs


def test_a_family_whose_blocks_end_in_a_norm_is_one_line_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("squeeze.passes.prune.prune_depth.blocks_to_remove", None)
    gemma = LanguageModel(write_family("gemma3", tmp_path, build=gemma3(num_hidden_layers=3)))
    line = r"layers\.0 adds no linear's output to the stream last, so that none can take a linear map in; replace: none"
    with pytest.raises(ModelError, match=line):
        PruneDepth(blocks=1, replace="linear", samples=8).run(gemma, context())


def test_calibration_text_that_is_all_measured_leaves_none_to_fit(dense: LanguageModel) -> None:
    line = (
        "fitted to calibration sequences behind the first 32, and there are none; fewer samples or more data.calibrate"
    )
    with pytest.raises(ModelError, match=line):
        PruneDepth(blocks=1, replace="linear").run(dense, context())


def test_sequences_to_fit_to_go_with_a_map(dense: LanguageModel) -> None:
    (unused,) = [each for each in PruneDepth(blocks=1).unused(dense, None) if each.option == "replace_samples"]
    assert "goes with replace: linear" in unused.reason
    assert not [u for u in PruneDepth(blocks=1, replace="linear").unused(dense, None) if u.option == "replace_samples"]
