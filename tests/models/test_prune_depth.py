"""Decoders with fewer blocks: chosen by measured loss, and the result is the model with those blocks skipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import gemma3, write_family
from language_world import context, edit, write_folder
from test_minicpm import write as write_minicpm
from test_prune_width import stock, stock_logits
from torch import nn

from squeeze.algorithms.sleb import cheapest_blocks
from squeeze.errors import ModelError
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context, Preview
from squeeze.passes.effort import Amount
from squeeze.passes.prune.losses import measured_on
from squeeze.passes.prune.prune_depth import PruneDepth
from squeeze.passes.prune.prune_width import PruneWidth
from squeeze.store import Journal
from squeeze.surgery import depth

TOKENS = np.random.default_rng(0).integers(3, 126, (4, 12))
FOUR = {"num_hidden_layers": 4}
KINDS = {"num_hidden_layers": 3, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
WORLDS: dict[str, Any] = {
    "llama": lambda folder: write_folder(folder, **FOUR),
    "gemma3, blocks of two kinds": lambda folder: write_family("gemma3", folder, build=gemma3(**KINDS)),
    "phi3": lambda folder: write_folder(folder, "Phi3", pad_token_id=0, **FOUR),
    "minicpm": lambda folder: write_minicpm(folder, tied=False),
    "minicpm-v, a tower that sees": lambda folder: write_family("minicpm-v", folder),
}


class Skipped(nn.Module):
    """Stands where a block was and does nothing."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = [block]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["block"][0], name) if name != "block" else self.__dict__["block"]

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return hidden


@pytest.mark.parametrize("write", WORLDS.values(), ids=WORLDS)
def test_the_shallow_folder_opens_in_stock_transformers_and_says_what_the_model_with_blocks_skipped_says(
    tmp_path: Path, write: Any
) -> None:
    (tmp_path / "dense").mkdir()
    dense, lent = LanguageModel(write(tmp_path / "dense")), context(TOKENS)
    result = PruneDepth(ratio=0.5).run(dense, lent)
    removed = [entry["block"] for entry in lent.facts["removed"]]
    assert result.blocks == dense.blocks - len(removed) < dense.blocks
    whole: Any = dense.whole()
    layers = whole.get_submodule(dense.skeleton.layers_name)
    for index in removed:
        layers[index] = Skipped(layers[index])
    torch.testing.assert_close(stock_logits(stock(result.folder)), stock_logits(whole), rtol=1e-4, atol=1e-4)


def test_lists_with_an_entry_for_each_block_keep_those_that_stay(tmp_path: Path) -> None:
    dense, lent = LanguageModel(write_family("gemma3", tmp_path, build=gemma3(**KINDS))), context(TOKENS)
    result = PruneDepth(blocks=1).run(dense, lent)
    removed = {entry["block"] for entry in lent.facts["removed"]}
    kinds = dense.skeleton.config.layer_types
    values = json.loads((result.folder / "config.json").read_text())
    assert values["layer_types"] == [kind for index, kind in enumerate(kinds) if index not in removed]
    assert values["num_hidden_layers"] == 2


def test_each_block_that_leaves_is_the_one_without_which_the_loss_is_least() -> None:
    """Blocks 0 and 1 make up for one another: alone each is cheap, together they are dear."""
    measured = []

    def loss(removed: frozenset[int]) -> float:
        measured.append(removed)
        return sum([1.0, 1.1, 2.0, 3.0][block] for block in removed) + (5.0 if {0, 1} <= removed else 0.0)

    order = list(cheapest_blocks({block: loss(frozenset({block})) for block in range(4)}, loss))
    assert order[:3] == [(0, 1.0), (2, 3.0), (3, 6.0)]
    assert frozenset({0, 3}) not in measured  # its earlier loss was above what block 2 has now


def test_a_block_that_does_nothing_costs_nothing(tmp_path: Path) -> None:
    def idle(weights: dict[str, torch.Tensor]) -> None:
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            weights[f"model.layers.2.{name}.weight"].zero_()

    dense = LanguageModel(edit(write_folder(tmp_path, **FOUR), idle))
    start = dense.walk(torch.from_numpy(TOKENS), wide=True)
    whole, *without = (depth.loss_without(dense, start, frozenset(removed)) for removed in ([], [1], [2], [3]))
    assert [loss == pytest.approx(whole) for loss in without] == [False, True, False]


@pytest.mark.parametrize("states", [0, 1, 3, 100])
def test_a_measurement_goes_on_from_where_others_have_been_with_the_same_loss(tmp_path: Path, states: int) -> None:
    dense = LanguageModel(write_folder(tmp_path, **FOUR))
    start = dense.walk(torch.from_numpy(TOKENS), wide=True)
    resumed, run = depth.Resumed(states * start.hidden.numel()), type(start).through
    through: list[int] = []

    def noted(walk: Any, index: int) -> None:
        through.append(index)
        run(walk, index)

    sets = [frozenset(removed) for removed in ([], [0], [3], [2], [1, 3], [1, 2, 3], [1, 2])]
    expected = [depth.loss_without(dense, start, skipped) for skipped in sets]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(start), "through", noted)
        assert [depth.loss_without(dense, start, skipped, resumed) for skipped in sets] == expected
    assert len(resumed.states) <= states
    assert len(through) == {0: 18, 1: 17, 3: 13, 100: 10}[states]


def test_a_killed_run_measures_no_loss_twice_and_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: Any) -> None:
    dense = LanguageModel(write_folder(tmp_path / "dense", **FOUR))
    whole, measure, calls = context(TOKENS), depth.loss_without, []

    def killed(*arguments: Any) -> float:
        calls.append(arguments[2])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(*arguments)

    pass_ = PruneDepth(blocks=2)
    result = pass_.run(dense, whole)
    monkeypatch.setattr("squeeze.passes.prune.prune_depth.loss_without", killed)
    half = Context(calibration_data=whole.calibration_data, journal=Journal(tmp_path / "journal"))
    with pytest.raises(KeyboardInterrupt):
        pass_.run(dense, half)
    resumed = pass_.run(dense, half)
    assert len(set(calls[:2]) & set(calls[3:])) == 0
    assert whole.facts == half.facts
    for file in sorted(result.folder.glob("*.safetensors")):
        assert file.read_bytes() == (resumed.folder / file.name).read_bytes(), file.name


@pytest.mark.parametrize("effort", [2, 8, 32])
def test_all_losses_of_a_deep_model_take_as_many_forward_passes_as_the_effort_says(effort: int) -> None:
    """So time grows with the layers; of a model of few layers each loss is measured on every sample."""
    assert measured_on(64, 4, 1, 32) == measured_on(64, 200, 50, None) == 64
    assert measured_on(3, 1000, 250, 1) == 1
    for blocks in (16, 48, 126, 400):
        measured, losses = measured_on(256, blocks, blocks // 4, effort), blocks + 3 * (blocks // 4)
        passes = losses / 2 * measured / 256
        assert passes <= effort
        assert passes > 0.6 * effort or measured == 256


def test_with_less_effort_each_loss_is_measured_on_fewer_sequences(tmp_path: Path) -> None:
    dense, facts = LanguageModel(write_folder(tmp_path, **FOUR)), {}
    for effort in (1, None):
        lent = context()  # 16 sequences of 16 tokens
        PruneDepth(blocks=2, effort=effort).run(dense, lent)
        facts[effort] = lent.facts["loss"]["tokens"]
    assert facts == {1: 3 * 16, None: 16 * 16}  # 4 blocks alone and 3 losses for each of 2 that leave, half a pass each


def test_the_foretold_work_grows_with_the_layers_and_without_a_bound_with_their_square(tmp_path: Path) -> None:
    sums: dict[int | None, list[float]] = {1: [], None: []}
    for layers in (8, 16):
        (folder := tmp_path / str(layers)).mkdir()
        model = LanguageModel(write_folder(folder, num_hidden_layers=layers))
        for effort, each in sums.items():
            work = PruneDepth(ratio=0.5, samples=256, effort=effort).work(model, Amount(256, 16))
            assert work is not None
            each.append(work.values)
    assert 1.6 < sums[1][1] / sums[1][0] < 2.4
    assert 3 < sums[None][1] / sums[None][0] < 4.5


def test_what_comes_after_is_checked_on_the_structure_that_is_there_by_then(tmp_path: Path) -> None:
    dense = LanguageModel(write_folder(tmp_path, **FOUR))
    before = Preview((), dense.parameters(), dense.nbytes(), dense.macs())
    fewer = PruneDepth(blocks=2).preview(dense, before)
    narrow = PruneWidth(ratio=0.5, align=8).preview(dense, fewer)
    lent = context(TOKENS[:1])
    model = PruneWidth(ratio=0.5, align=8).run(PruneDepth(blocks=2).run(LanguageModel(tmp_path), lent), lent)
    assert (narrow.parameters, narrow.macs) == (model.parameters(), model.macs())


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"ratio": 0.1}, "ratio 0.1 removes 0 of 4 blocks; 1 to 3 would do"),
        ({"blocks": 4}, "blocks 4 removes 4 of 4 blocks; 1 to 3 would do"),
        ({"parameters": "1 %"}, r"1 % cannot be reached by whole blocks: [\d,]+ of [\d,]+ \(\d+%\) is the least"),
        ({"parameters": "1B"}, "no more than 1B allows; there is nothing to cut"),
    ],
)
def test_a_goal_that_the_model_cannot_meet_is_one_line(tmp_path: Path, options: dict[str, Any], line: str) -> None:
    (messages,) = PruneDepth(**options).faults(LanguageModel(write_folder(tmp_path, **FOUR)))
    assert messages.startswith("prune_depth: ")
    with pytest.raises(ModelError, match=line):
        PruneDepth(**options).run(LanguageModel(tmp_path), context())


@pytest.mark.parametrize("options", [{}, {"ratio": 0.2, "blocks": 1}, {"ratio": 1}, {"parameters": "120 %"}])
def test_a_goal_that_says_nothing_or_too_much_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"name one of|less than 1|is no number of parameters"):
        PruneDepth(**options)
