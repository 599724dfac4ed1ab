"""What is wrong with a model or its options ends in one clear line or a named fallback, never in a silent bad model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language_world import CALIBRATED, context, edit, logits, plan_faults, write_folder, write_tokenizer
from safetensors.torch import load_file, save_file
from tiny import faults, write_plan
from torch import Tensor

from squeeze.errors import EffectError, ModelError, SqueezeError
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.quantize.gptq import Gptq
from squeeze.passes.quantize.hqq import Hqq
from squeeze.passes.quantize.language.awq import Awq
from squeeze.passes.quantize.rtn import Rtn

QUANTIZERS: list[Any] = [Rtn(group_size=16), Gptq(group_size=16), Awq(group_size=16), Hqq(group_size=16)]
every_quantizer = pytest.mark.parametrize("method", QUANTIZERS, ids=[method.name for method in QUANTIZERS])
DOWN, Q = "model.layers.1.mlp.down_proj.weight", "model.layers.0.self_attn.q_proj.weight"


@every_quantizer
@pytest.mark.parametrize("name", [DOWN, "model.layers.1.input_layernorm.weight", "model.embed_tokens.weight"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(tmp_path: Path, method: Any, name: str, bad: float) -> None:
    def spoil(weights: dict[str, Tensor]) -> None:
        weights[name].view(-1)[3] = bad

    model = LanguageModel(edit(write_folder(tmp_path), spoil))
    with pytest.raises(SqueezeError, match=rf"{name} holds values that are not finite"):
        method.run(model, context())


@every_quantizer
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_a_group_of_zeros_stays_zeros(tmp_path: Path, method: Any, symmetric: bool) -> None:
    def clear(weights: dict[str, Tensor]) -> None:
        weights[DOWN][:, 16:32] = 0

    model = LanguageModel(edit(write_folder(tmp_path), clear))
    options = {"symmetric": symmetric} | ({"target": "given"} if isinstance(method, Gptq) else {})
    written = method.model_copy(update=options).run(model, context())
    assert torch.isfinite(written.quantized(DOWN).scale).all()
    assert (written.quantized(DOWN).scale != 0).all()
    assert written.tensor(DOWN)[:, 16:32].abs().max() < 0.03  # gptq may use them to make up for others' errors
    assert torch.isfinite(logits(written)).all()


@every_quantizer
def test_an_input_that_is_always_zero_does_no_harm(tmp_path: Path, method: Any) -> None:
    def kill(weights: dict[str, Tensor]) -> None:
        weights["model.layers.0.input_layernorm.weight"][7] = 0

    model = LanguageModel(edit(write_folder(tmp_path), kill))
    lent = context()
    written = method.run(model, lent)
    assert torch.isfinite(written.tensor(Q)).all()
    assert (logits(written) - logits(model)).abs().mean() < 0.3 * logits(model).abs().mean()
    if method.name == "gptq":
        dead = {name: fact["dead"] for name, fact in lent.facts["layers"].items()}
        assert {name for name, count in dead.items() if count} == {Q.replace("q_", f"{x}_") for x in "qkv"}


def test_a_hessian_without_a_factor_is_damped_until_it_has_one_and_that_is_recorded(tmp_path: Path) -> None:
    """64 tokens of one kind say nothing about most directions of 96 inputs."""
    lent = context(np.full((4, 16), 5))
    written = Gptq(group_size=16, damping=1e-12).run(LanguageModel(write_folder(tmp_path)), lent)
    assert lent.facts["layers"][DOWN]["damping"] > 1e-12
    assert torch.isfinite(logits(written)).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 16)], ids=["one token", "one sequence"])
def test_calibration_too_short_to_say_anything_is_a_named_fallback(tmp_path: Path, shape: tuple[int, int]) -> None:
    lent = context(np.full(shape, 5))
    model = LanguageModel(write_folder(tmp_path))
    written = Gptq(group_size=16).run(model, lent)
    assert {fact["fallback"] for fact in lent.facts["layers"].values()} == {"rtn"}
    assert {fact["tokens"] for fact in lent.facts["layers"].values()} == {shape[0] * shape[1]}
    assert torch.equal(logits(written), logits(Rtn(group_size=16, clip="mse").run(model, context())))


def test_experts_that_saw_too_few_tokens_fall_back_and_are_named(tmp_path: Path) -> None:
    """One token over and over goes to two of four experts."""
    folder = write_folder(tmp_path, "Mixtral", num_local_experts=4, num_experts_per_tok=2)
    lent = context(np.full((8, 16), 5))
    Gptq(group_size=16).run(LanguageModel(folder), lent)
    facts = {name: fact for name, fact in lent.facts["layers"].items() if "experts" in name}
    idle = [name for name, fact in facts.items() if fact.get("fallback") == "rtn"]
    assert len(facts) == 2 * 2 * 4
    assert len(idle) == 2 * 2 * 2
    assert {facts[name]["tokens"] for name in idle} == {0}
    assert not any("self_attn" in name for name, fact in lent.facts["layers"].items() if "fallback" in fact)


def test_a_router_is_left_as_it_is_even_where_a_weight_has_as_many_rows_as_there_are_experts(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, "Mixtral", num_local_experts=32, num_experts_per_tok=2, intermediate_size=32)
    written = Rtn(group_size=16).run(LanguageModel(folder), context())
    assert not any(name.endswith("mlp.gate.weight") for name in written.grid)
    assert "model.layers.0.self_attn.k_proj.weight" in written.grid  # 32 rows too: 2 heads of 16


def sharded(folder: Path) -> Path:
    """The same model in two shards with an index."""
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    placed = {
        name: f"model-0000{1 + (place > len(names) // 2)}-of-00002.safetensors" for place, name in enumerate(names)
    }
    for shard in set(placed.values()):
        save_file({name: weights[name] for name in names if placed[name] == shard}, folder / shard, {"format": "pt"})
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    return folder


def test_a_shard_that_only_the_index_knows_is_named(tmp_path: Path) -> None:
    folder = sharded(write_folder(tmp_path))
    assert LanguageModel(folder).blocks == 2
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"the index names the shard 'model-00002-of-00002\.safetensors', which"):
        LanguageModel(folder)


@pytest.mark.parametrize("size", [0, 7, 100, -1], ids=["empty", "no header", "half a header", "one byte missing"])
def test_a_shard_cut_short_is_named(tmp_path: Path, size: int) -> None:
    file = sharded(write_folder(tmp_path)) / "model-00001-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ModelError, match=r"model-00001-of-00002\.safetensors: not a whole safetensors file"):
        LanguageModel(tmp_path)


def test_a_tensor_that_is_missing_or_of_another_shape_is_named(tmp_path: Path) -> None:
    whole = load_file(write_folder(tmp_path) / "model.safetensors")
    edit(tmp_path, lambda weights: weights.pop(DOWN))
    with pytest.raises(ModelError, match=rf"the shards hold no '{DOWN}', which the model needs"):
        LanguageModel(tmp_path)
    save_file(whole | {DOWN: torch.zeros(64, 80)}, tmp_path / "model.safetensors")
    with pytest.raises(
        ModelError, match=rf"'{DOWN}' has the wrong shape: \[64, 80\] on disk, \[64, 96\] by config.json"
    ):
        LanguageModel(tmp_path)


def test_a_group_size_that_divides_nothing_is_refused_with_those_that_fit(tmp_path: Path) -> None:
    lines = list(Gptq(group_size=128).faults(LanguageModel(write_folder(tmp_path))))
    assert len(lines) == 2
    assert lines[0].startswith(
        "gptq: group_size 128 does not divide the 64 inputs of *.mlp.gate_proj, *.mlp.up_proj, *"
    )
    assert lines[0].endswith("; 2, 4, 8, 16, 32 or null would")
    assert "the 96 inputs of *.mlp.down_proj; 2, 3, 4, 6, 8, 12, 16, 24, 32, 48 or null would" in lines[1]


@pytest.mark.parametrize(
    "options",
    [{"include": "*.q_prj"}, {"exclude": ["*.q_prj"]}, {"overrides": {"*.q_prj": {"bits": 8}}}],
    ids=["include", "exclude", "overrides"],
)
def test_a_pattern_that_matches_nothing_names_the_nearest(tmp_path: Path, options: dict[str, Any]) -> None:
    (line,) = Rtn(group_size=16, **options).faults(LanguageModel(write_folder(tmp_path)))
    assert line == "rtn: \"*.q_prj\" matches no weight; did you mean '*.q_proj'?"


def test_nothing_left_to_quantize_is_said(tmp_path: Path) -> None:
    (line,) = Rtn(group_size=16, exclude="*").faults(LanguageModel(write_folder(tmp_path)))
    assert line == "rtn: include and exclude leave no weight to quantize"


@every_quantizer
def test_overrides_show_in_what_is_stored(tmp_path: Path, method: Any) -> None:
    overrides = {"*.down_proj": {"bits": 8, "group_size": None}, "*.layers.0.*": {"symmetric": False}}
    result = type(method)(group_size=16, symmetric=True, overrides=overrides, exclude="*.up_proj")
    grid = result.run(LanguageModel(write_folder(tmp_path)), context()).grid
    as_asked = {"down_proj": (8, None), "gate_proj": (4, 16), "q_proj": (4, 16), "o_proj": (4, 16)}
    for layer, symmetric in enumerate([False, True]):
        for name, (bits, size) in as_asked.items():
            room = "self_attn" if name[1] == "_" else "mlp"
            entry = grid[f"model.layers.{layer}.{room}.{name}.weight"]
            assert (entry.bits, entry.group_size, entry.symmetric) == (bits, size, symmetric)
    assert not any("up_proj" in name for name in grid)


@every_quantizer
def test_a_quantized_model_is_not_quantized_again(tmp_path: Path, method: Any) -> None:
    once = Rtn(group_size=16).run(LanguageModel(write_folder(tmp_path)), context())
    assert once.marks() & method.refuses == {"quantized"}
    with pytest.raises((ModelError, EffectError), match="14 weights are quantized already"):
        method.run(once, context())


PLAN = CALIBRATED + "  - {pass: rtn, group_size: 16}\n  - {pass: gptq, group_size: 16}\n"


def test_a_plan_that_quantizes_twice_is_refused_at_its_line(tmp_path: Path) -> None:
    assert plan_faults(tmp_path, PLAN) == ["8: gptq must come before rtn (line 7), which leaves the weights quantized"]
    (folder := tmp_path / "quantized").mkdir()
    Rtn(group_size=16).run(LanguageModel(tmp_path), context()).save(folder)
    write_tokenizer(folder)
    once = PLAN.replace("hf: .", "hf: quantized").replace("  - {pass: gptq, group_size: 16}\n", "")
    assert faults(write_plan(tmp_path, once)) == [
        "7: rtn takes a model whose weights are floats; they are quantized in the plan's model already"
    ]
