"""Every family is walked as stock transformers runs it, quantized, and written as a folder that it loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from families import FAMILIES, SMALL, stock_logits, tokens, write_family
from safetensors.torch import load_file, save_file

from squeeze.data.text import TokenDataset
from squeeze.errors import ModelError
from squeeze.models.base import Batch
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.skeleton import is_language_folder
from squeeze.models.shards import Shards
from squeeze.passes.base import Context, Pass
from squeeze.passes.quantize.gptq import Gptq
from squeeze.passes.quantize.rtn import Rtn


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of one family in a Hugging Face folder."""
    return write_family(request.param, tmp_path_factory.mktemp(request.param))


def walked(model: LanguageModel) -> torch.Tensor:
    return model.predict(Batch({"input_ids": tokens()}))


def quantized(folder: Path, method: Pass[LanguageModel, LanguageModel]) -> tuple[LanguageModel, Context]:
    context = Context(calibration_data=TokenDataset("text", tokens(16, 24).numpy()))
    return method.run(LanguageModel(folder), context), context


def matrices(model: LanguageModel) -> set[str]:
    """All weights of the decoder blocks but routers (``gate``) and norms (of several heads: Command R)."""
    weights = model.skeleton.module.named_parameters()
    inside = {name for name, value in weights if name.startswith(f"{model.skeleton.layers_name}.") and value.dim() > 1}
    return {name for name in inside if not name.endswith(("gate.weight", "norm.weight"))}


def test_the_walk_gives_the_logits_of_stock_transformers(family: Path) -> None:
    stock = stock_logits(family)
    assert stock.std() > 0.1
    assert torch.allclose(walked(LanguageModel(family)), stock, atol=1e-5)


@pytest.mark.parametrize("method", [Rtn(bits=4, group_size=16), Gptq(bits=4, group_size=32)], ids=["rtn", "gptq"])
def test_a_quantized_model_is_what_stock_transformers_loads(
    family: Path, tmp_path: Path, method: Pass[LanguageModel, LanguageModel]
) -> None:
    model, context = quantized(family, method)
    model.save_dense(tmp_path)
    assert set(model.grid) == matrices(model)
    assert set(Shards(tmp_path).pieces) == set(Shards(family).pieces)
    assert torch.allclose(walked(model), stock_logits(tmp_path), atol=1e-5)
    assert not torch.allclose(walked(model), stock_logits(family), atol=1e-3)
    facts = context.facts["layers"]
    assert {name.partition("[")[0] for name in facts} == (set(model.grid) if method.name == "gptq" else set())
    assert not any("fallback" in fact for fact in facts.values())


@pytest.mark.parametrize("name", ["llava", "minicpm-v"])
def test_a_vision_tower_is_kept_as_it_is(tmp_path: Path, name: str) -> None:
    family = write_family(name, tmp_path / "family")
    assert is_language_folder(family)
    model, _ = quantized(family, Rtn(bits=4, group_size=16, embeddings=8))
    assert {entry.bits for name, entry in model.grid.items() if "layers" not in name} == {8}
    assert not any("vision" in name for name in model.grid)
    model.save_dense(tmp_path / "dense")
    before, after = Shards(family), Shards(tmp_path / "dense")
    remaining = [stored for stored in before.pieces if "language_model" not in stored and "lm_head" not in stored]
    assert any("vision" in stored for stored in remaining)
    assert all(torch.equal(before.read(stored), after.read(stored)) for stored in remaining)


@pytest.mark.parametrize("name", ["mixtral", "gemma2", "qwen3-moe"])
def test_bf16_weights_come_back_as_bf16(tmp_path: Path, name: str) -> None:
    family = write_family(name, tmp_path / "family", torch.bfloat16)
    model, _ = quantized(family, Gptq(bits=4, group_size=16))
    model.save_dense(tmp_path / "dense")
    shards = Shards(tmp_path / "dense")
    assert {shards.read(stored).dtype for stored in shards.pieces} == {torch.bfloat16}
    assert torch.allclose(
        walked(LanguageModel(tmp_path / "dense")), stock_logits(tmp_path / "dense", torch.float32), atol=1e-4
    )


@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_bf16_model_is_scored_in_float32_as_stock_transformers_computes_it(tmp_path: Path, name: str) -> None:
    """The rounding of a bf16 forward is larger than that of int8 weights: no reference for anything."""
    family = write_family(name, tmp_path / "family", torch.bfloat16)
    exact, rounded = stock_logits(family, torch.float32), stock_logits(family, torch.bfloat16)
    logits = walked(LanguageModel(family))
    assert torch.allclose(logits, exact, atol=1e-4)
    assert (logits - exact).abs().max() < 0.05 * (rounded - exact).abs().max()


def test_a_config_that_says_no_dtype_or_another_one_leaves_weights_in_theirs(tmp_path: Path) -> None:
    family = write_family("llama3.1", tmp_path / "family", torch.bfloat16)
    config = json.loads((family / "config.json").read_text())
    for number, dtype in enumerate([{}, {"dtype": "float32"}]):
        without = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
        (family / "config.json").write_text(json.dumps(without | dtype))
        model, _ = quantized(family, Rtn(bits=4, group_size=16))
        model.save_dense(tmp_path / str(number))
        shards = Shards(tmp_path / str(number))
        assert {shards.read(stored).dtype for stored in shards.pieces} == {torch.bfloat16}
        assert torch.isfinite(walked(model)).all()


def test_experts_are_read_from_either_form(tmp_path: Path) -> None:
    """One by one, as Mixtral's checkpoints have them, and stacked, as the module holds them."""
    family = write_family("mixtral", tmp_path)
    stored = Shards(family)
    assert "model.layers.0.block_sparse_moe.experts.3.w1.weight" in stored
    model = LanguageModel(family)
    gate, up = (stored.read(f"model.layers.1.block_sparse_moe.experts.2.{name}.weight") for name in ("w1", "w3"))
    assert torch.equal(model.tensor("model.layers.1.mlp.experts.gate_up_proj")[2], torch.cat([gate, up]))
    whole = {name: model.tensor(name) for name in model.skeleton.names()}
    expected = walked(model)
    save_file(whole, family / "model.safetensors", {"format": "pt"})
    assert torch.equal(walked(LanguageModel(family)), expected)


def test_an_expert_that_is_not_there_is_missed(tmp_path: Path) -> None:
    family = write_family("mixtral", tmp_path)
    stored = {
        name: value for name, value in load_file(family / "model.safetensors").items() if ".experts.3." not in name
    }
    save_file(stored, family / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"gate_up_proj' has the wrong shape: \[3, 192, 64\] on disk, \[4, 192, 64\]"):
        LanguageModel(family)


FP8 = SMALL | {"model_type": "llama", "quantization_config": {"quant_method": "fp8"}}
HALF = SMALL | {"model_type": "llama", "num_attention_heads": 5}
JAMBA = SMALL | {"num_hidden_layers": 8} | {"model_type": "jamba", "mamba_d_state": 4, "num_experts": 2}
UNKNOWN = {
    "no such type": ({"model_type": "nosuch"}, "model_type 'nosuch' cannot be built: .*nosuch"),
    "no type": ({}, "config.json names no model_type"),
    "no logits": ({"model_type": "vit"}, "'vit' cannot be built: transformers has neither a causal language model nor"),
    "odd heads": (HALF, r"model_type 'llama' cannot be built: The hidden size \(64\) is not a multiple"),
    "no object": ([], "config.json: no config can be read here"),
    "quantized by others": (
        FP8,
        "is quantized already, by fp8, which is not read; a checkpoint of gptq or compressed-tensors",
    ),
    "mixed blocks": (JAMBA, r"JambaForCausalLM: no list of decoder blocks \(a ModuleList of one class with weight"),
}


@pytest.mark.parametrize(("config", "line"), list(UNKNOWN.values()), ids=list(UNKNOWN))
def test_an_unknown_structure_is_refused_with_what_was_looked_for(tmp_path: Path, config: object, line: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=line):
        LanguageModel(tmp_path)
