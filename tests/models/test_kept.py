"""What goes into the last products of a block's parts is kept, and gives the same as running the whole part again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import gemma3, write_family
from language_world import context, edit, write_folder
from torch import nn

from squeeze.blocks.kept import Kept, ends_seen
from squeeze.blocks.watch import InputWatch, Weight
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes import calibration
from squeeze.passes.calibration import calibration_walk
from squeeze.passes.prune.prune_width import PruneWidth
from squeeze.passes.quantize.gptq import Gptq


def halve(weights: dict[str, torch.Tensor]) -> None:
    weights.update({name: value.bfloat16() for name, value in weights.items()})


FAMILIES: dict[str, Any] = {
    "llama": lambda folder: write_family("llama3.1", folder),
    "half precision": lambda folder: edit(write_folder(folder), halve),
    "phi3": lambda folder: write_family("phi3", folder),
    "gemma3, norms behind": lambda folder: write_family("gemma3", folder, build=gemma3(num_hidden_layers=2)),
    "cohere, side by side": lambda folder: write_family("command-r", folder),
    "qwen2, biases": lambda folder: write_family("qwen2", folder),
    "mixtral, experts": lambda folder: write_family("mixtral", folder),
}


def stored(model: LanguageModel) -> dict[str, bytes]:
    return {str(f.relative_to(model.folder)): f.read_bytes() for f in sorted(model.folder.rglob("*.safetensors"))}


def linears_run(module: nn.Module, counted: list[str]) -> None:
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            part.register_forward_hook(lambda *_, name=name: counted.append(name))


@pytest.mark.parametrize("options", [{}, {"true_sequential": False}, {"target": "given"}], ids=str)
@pytest.mark.parametrize("write", FAMILIES.values(), ids=FAMILIES)
def test_gptq_writes_the_same_bytes_whether_inputs_are_kept_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, options: dict[str, Any]
) -> None:
    gptq = Gptq(bits=4, group_size=16, **options)
    folder = write(tmp_path / "model")
    kept = stored(gptq.run(LanguageModel(folder), context()))
    monkeypatch.setattr(calibration, "KEPT_BYTES", 0)
    assert stored(gptq.run(LanguageModel(folder), context())) == kept


def test_what_comes_before_a_part_s_last_linear_runs_once_more_only(tmp_path: Path) -> None:
    counted: list[str] = []
    for most in (1 << 20, 0):
        model = LanguageModel(write_folder(tmp_path))
        linears_run(model.skeleton.layers[0], counted)
        Gptq(bits=4, group_size=16).run(model, replace(context(), memory_bytes=8 * most or 1))
        if most:
            with_room = counted.count("self_attn.q_proj"), counted.count("mlp.gate_proj")
            counted.clear()
    without = counted.count("self_attn.q_proj"), counted.count("mlp.gate_proj")
    probes = 1  # one chunk tells how the block's weights lie
    assert with_room[0] <= probes + 2
    assert with_room[1] <= probes + 2
    assert without[0] > with_room[0]
    assert without[1] > with_room[1]


def test_a_part_s_last_linear_runs_once_in_the_original_and_twice_in_the_new_model(tmp_path: Path) -> None:
    counted: list[str] = []
    model = LanguageModel(write_folder(tmp_path))
    linears_run(model.skeleton.layers[0], counted)
    Gptq(bits=4, group_size=16).run(model, context())
    probes, original, before, after = 1, 1, 1, 1  # one chunk tells how the weights lie; before and after rounding
    assert counted.count("self_attn.o_proj") == probes + original + before + after
    assert counted.count("mlp.down_proj") <= probes + original + before + after


def test_a_watched_weight_is_seen_even_where_its_output_is_kept() -> None:
    block = nn.ModuleDict({"part": nn.Sequential(nn.Linear(8, 8))})
    x, weight = torch.randn(2, 3, 8), Weight("part.0.weight")
    with ends_seen(block) as ends:
        block["part"](x)
    kept = Kept(0, ends, 1 << 20, final=True)
    kept.keep(weight, slice(0, 2), x, 2)
    with kept.in_place(block, slice(0, 2)):
        expected = block["part"](x)
    assert kept.outputs
    assert not kept.inputs
    seen: list[torch.Tensor] = []
    with kept.in_place(block, slice(0, 2), [weight]), InputWatch(block, [weight], lambda _, value: seen.append(value)):
        assert torch.equal(block["part"](x), expected)
    assert len(seen) == 1


def test_a_dropout_behind_a_part_is_not_taken_for_the_part(tmp_path: Path) -> None:
    model = LanguageModel(write_family("phi3", tmp_path / "model"))
    walk = calibration_walk(model, context())
    with model.block(0) as block, ends_seen(block) as ends:
        walk.block(0, walk.hidden)
    assert [end.part for end in ends] == ["self_attn", "mlp"]


def test_parts_that_end_in_a_linear_are_found(tmp_path: Path) -> None:
    model = LanguageModel(write_folder(tmp_path))
    walk = calibration_walk(model, context())
    with model.block(0) as block, ends_seen(block) as ends:
        walk.block(0, walk.hidden)
    assert {(end.part, end.linear) for end in ends} == {("self_attn", "self_attn.o_proj"), ("mlp", "mlp.down_proj")}


def test_an_input_of_which_not_all_chunks_fit_is_not_kept() -> None:
    block = nn.ModuleDict({"part": nn.Sequential(nn.ReLU(), nn.Linear(8, 8))})

    class Runs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = block

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.inner["part"](x)
            return result

    runs, x = Runs(), torch.randn(2, 3, 8)
    with ends_seen(runs) as ends:
        expected = runs(x)
    kept = Kept(0, ends, 2 * x.nbytes - 1)
    weight = Weight("inner.part.1.weight")
    kept.keep(weight, slice(0, 2), x.relu(), 4)
    assert not kept.inputs
    kept = Kept(0, ends, 2 * x.nbytes)
    kept.keep(weight, slice(0, 2), x.relu(), 4)
    with kept.in_place(runs, slice(0, 2)):
        assert torch.equal(runs(torch.zeros_like(x)), expected)
    assert torch.equal(runs(x), expected)


def test_a_part_that_gives_more_than_its_linear_does_is_left_alone() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.linear(x) * 2
            return result

    block = nn.Sequential(Scaled())
    with ends_seen(block) as ends:
        block(torch.randn(1, 4))
    assert not ends


@pytest.mark.parametrize("parts", [("intermediate", "heads"), ("intermediate", "hidden")], ids=" and ".join)
@pytest.mark.parametrize("write", [FAMILIES[name] for name in ("llama", "half precision", "phi3", "qwen2, biases")])
def test_a_narrower_model_has_the_same_bytes_whether_inputs_are_kept_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, parts: Any
) -> None:
    prune = PruneWidth(ratio=0.5, parts=parts, align=8)
    folder = write(tmp_path / "model")
    kept = stored(prune.run(LanguageModel(folder), context()))
    monkeypatch.setattr(calibration, "KEPT_BYTES", 0)
    assert stored(prune.run(LanguageModel(folder), context())) == kept
