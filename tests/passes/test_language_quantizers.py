"""Quantizers of language models, and what prepares a model for them, on a tiny random Llama and on a real one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language_world import SIZES, in_shards
from torch import Tensor, nn

from squeeze.blocks.watch import shared_inputs
from squeeze.data.text import TokenDataset
from squeeze.errors import EffectError, ModelError
from squeeze.models.base import Batch
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.quantize.gptq import Gptq
from squeeze.passes.quantize.hqq import Hqq
from squeeze.passes.quantize.language import rotate
from squeeze.passes.quantize.language.awq import Awq
from squeeze.passes.quantize.language.fold import all_matrices, find_sources, norm_offset
from squeeze.passes.quantize.language.rotate import Rotate
from squeeze.passes.quantize.language.smooth import Smooth
from squeeze.passes.quantize.language.write import Write
from squeeze.passes.quantize.rtn import Rtn


def saved(folder: Path, family: str = "Llama", **more: Any) -> LanguageModel:
    """A tiny random model of a real class, whose norms and inputs are as uneven as those of trained ones."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES | {"max_position_embeddings": 64} | more)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    for name, value in model.named_parameters():
        if value.dim() == 1 and name.endswith("weight"):
            value.data.mul_(torch.exp(0.8 * torch.randn(len(value)))).add_(0.01 * torch.randn(len(value)))
    model.save_pretrained(folder)
    return LanguageModel(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return saved(tmp_path_factory.mktemp("tiny"), tie_word_embeddings=True)


def dataset(sequences: int = 16, length: int = 16) -> TokenDataset:
    return TokenDataset("random", np.random.default_rng(0).integers(0, SIZES["vocab_size"], (sequences, length)))


def context() -> Context:
    return Context(calibration_data=dataset())


def logits(model: LanguageModel) -> Tensor:
    return model.predict(Batch({"input_ids": torch.from_numpy(dataset(4).tokens)}))


def change(before: LanguageModel, after: LanguageModel) -> float:
    was, now = logits(before), logits(after)
    return float((now - was).norm() / was.norm())


def sources(model: LanguageModel) -> dict[str, str]:
    """Per first weight of each group of the first block, what its scales can be folded into."""
    walk = model.walk(torch.from_numpy(dataset(4).tokens))
    with model.block(0) as block:

        def run() -> Tensor:
            return walk.block(0, walk.hidden[:4]) - walk.hidden[:4]

        groups = shared_inputs(block, all_matrices(block), run)
        heads = model.skeleton.config.num_attention_heads, model.skeleton.config.num_key_value_heads
        return {str(weight): source.module for weight, source in find_sources(block, groups, heads, run).items()}


def test_what_writes_an_input_is_found_from_the_structure(tiny: LanguageModel) -> None:
    assert sources(tiny) == {
        "self_attn.q_proj.weight": "input_layernorm",
        "self_attn.o_proj.weight": "self_attn.v_proj",  # two attention heads read each KV head
        "mlp.gate_proj.weight": "post_attention_layernorm",
        "mlp.down_proj.weight": "mlp.up_proj",  # never the gate, which a nonlinearity follows
    }


def test_fused_linears_are_sources_by_their_last_rows(tmp_path: Path) -> None:
    """Phi-3 keeps q, k, v in one weight and gate, up in another."""
    model = saved(tmp_path, "Phi3", pad_token_id=0)
    assert sources(model) == {
        "self_attn.qkv_proj.weight": "input_layernorm",
        "self_attn.o_proj.weight": "self_attn.qkv_proj",
        "mlp.gate_up_proj.weight": "post_attention_layernorm",
        "mlp.down_proj.weight": "mlp.gate_up_proj",
    }


def test_a_norm_that_a_router_and_experts_read_is_no_source(tmp_path: Path) -> None:
    model = saved(tmp_path, "Mixtral", num_local_experts=2, num_experts_per_tok=1)
    assert "post_attention_layernorm" not in sources(model).values()


def test_one_plus_weight_is_told_from_weight() -> None:
    from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    assert (norm_offset(GemmaRMSNorm(8)), norm_offset(LlamaRMSNorm(8)), norm_offset(nn.LayerNorm(8))) == (1, 0, 0)


@pytest.mark.parametrize("family", ["Llama", "Gemma", "Cohere"])
def test_smoothing_leaves_what_the_model_computes(tmp_path: Path, family: str) -> None:
    model = saved(tmp_path, family)
    lent = context()
    smoothed = Smooth().run(model, lent)
    assert change(model, smoothed) < 1e-4
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.allclose(smoothed.tensor(name), model.tensor(name), rtol=0.1)
    assert "q_proj" in lent.facts["blocks"]["0"]["input_layernorm"]


def test_smoothing_that_finds_no_norm_is_an_error(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("squeeze.passes.quantize.language.smooth.find_sources", lambda *_: {})
    with pytest.raises(EffectError, match="nothing was folded"):
        Smooth().run(tiny, context())


@pytest.mark.parametrize(
    ("family", "more"),
    [("Llama", {"tie_word_embeddings": True}), ("Gemma", {"head_dim": 16}), ("Qwen2", {"tie_word_embeddings": False})],
    ids=["llama", "gemma", "qwen2"],
)
def test_a_rotated_model_is_a_stock_model_that_says_the_same(tmp_path: Path, family: str, more: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM

    model = saved(tmp_path, family, **more)
    rotated = Rotate().run(model, context())
    assert change(model, rotated) < 1e-4
    config = json.loads((rotated.folder / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    name = "model.layers.0.mlp.down_proj.weight"
    assert not torch.allclose(rotated.tensor(name), model.tensor(name), atol=1e-3)
    rotated.save_dense(tmp_path / "dense")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "dense").eval()
    with torch.no_grad():
        output = stock(input_ids=torch.from_numpy(dataset(4).tokens)).logits
    assert torch.allclose(output, logits(rotated), atol=1e-4)


def test_a_norm_that_subtracts_the_mean_cannot_be_rotated(tmp_path: Path) -> None:
    model = saved(tmp_path, "Cohere")
    (fault,) = Rotate().faults(model)
    assert "CohereLayerNorm) subtracts the mean or adds a bias" in fault
    with pytest.raises(ModelError, match="RMSNorm would do"):
        Rotate().run(model, context())


def test_a_norm_behind_a_linear_cannot_be_rotated(tmp_path: Path) -> None:
    model = saved(tmp_path, "Gemma2", head_dim=16)
    with pytest.raises(ModelError, match=r"no linear reads model\.layers\.0\.post_.*; a norm behind a linear stops"):
        Rotate().run(model, context())


def test_experts_in_one_tensor_are_not_rotated(tmp_path: Path) -> None:
    (fault,) = Rotate().faults(saved(tmp_path, "Mixtral", num_local_experts=2, num_experts_per_tok=1))
    assert "experts in one tensor (mlp.experts." in fault


def test_a_rotation_that_changes_the_model_is_an_error(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the writers forgotten, the pass would see it by itself."""
    monkeypatch.setattr(rotate, "_turn_writers", lambda *_: None)
    with pytest.raises(EffectError, match="its logits changed by"):
        Rotate().run(tiny, context())


def test_awq_folds_its_scales_and_names_where(tiny: LanguageModel) -> None:
    lent = context()
    result = Awq(bits=3, group_size=32).run(tiny, lent)
    assert lent.facts["folded"] == {
        "input_layernorm": 6,
        "mlp.up_proj": 2,
        "post_attention_layernorm": 4,
        "self_attn.v_proj": 2,
    }
    assert change(tiny, result) < change(tiny, Rtn(bits=3, group_size=32).run(tiny, context()))
    assert all(fact["loss"] < fact["loss_rtn"] for fact in lent.facts["layers"].values())


def test_awq_scales_what_it_leaves_real_as_well(tiny: LanguageModel) -> None:
    """v is read by o and reads a norm: left out of quantization it still must follow both foldings."""
    result = Awq(bits=8, group_size=32, exclude=("*.v_proj",)).run(tiny, context())
    assert "model.layers.0.self_attn.v_proj.weight" not in result.grid
    assert change(tiny, result) < 0.02


def test_clipping_alone_leaves_the_norms(tiny: LanguageModel) -> None:
    lent = context()
    result = Awq(bits=3, group_size=32, scale=False).run(tiny, lent)
    norm = "model.layers.0.input_layernorm.weight"
    assert torch.equal(result.tensor(norm), tiny.tensor(norm))
    assert lent.facts["folded"] == {}


@pytest.mark.parametrize(
    "quantizer",
    [
        Rtn(group_size=32),
        Rtn(group_size=32, symmetric=False),
        Hqq(group_size=32),
        Awq(group_size=None),
        Gptq(group_size=32),
    ],
    ids=["rtn", "rtn-asymmetric", "hqq", "awq-per-channel", "gptq"],
)
def test_every_quantizer_leaves_a_grid_that_comes_close(tiny: LanguageModel, quantizer: Any) -> None:
    result = quantizer.run(tiny, context())
    assert len(result.grid) == 14
    assert {entry.bits for entry in result.grid.values()} == {4}
    assert all(entry.symmetric == quantizer.symmetric for entry in result.grid.values())
    assert 0 < change(tiny, result) < 0.3
    assert result.nbytes() < tiny.nbytes()


def test_more_bits_come_closer(tiny: LanguageModel) -> None:
    changes = [change(tiny, Gptq(bits=bits, group_size=32).run(tiny, context())) for bits in (2, 3, 4, 8)]
    assert changes == sorted(changes, reverse=True)
    assert changes[-1] < 0.02


def test_embeddings_are_quantized_on_request(tiny: LanguageModel) -> None:
    new = in_shards(Rtn(group_size=32, embeddings=8).run(tiny, context()))
    assert new.grid["model.embed_tokens.weight"].bits == 8
    assert "lm_head.weight" not in new.grid  # it is tied
    assert 0 < (new.tensor("model.embed_tokens.weight") - tiny.tensor("model.embed_tokens.weight")).abs().max() < 1e-3
    assert new.nbytes() < Rtn(group_size=32).run(tiny, context()).nbytes()


def test_a_group_index_is_stored_with_the_grid_and_read_back(tiny: LanguageModel) -> None:
    quantizer = Gptq(bits=4, group_size=16, order="act_order")
    assert not list(quantizer.faults(tiny))
    after = in_shards(quantizer.run(tiny, context()))
    grid = after.quantized("model.layers.0.mlp.down_proj.weight")
    assert grid.g_idx is not None
    assert grid.g_idx.bincount().tolist() == [16] * 6
    assert (grid.g_idx.diff() != 0).sum() > 5  # not consecutive
    assert change(tiny, after) < change(tiny, Rtn(bits=4, group_size=16).run(tiny, context()))
    again = LanguageModel(after.folder)
    assert torch.equal(again.quantized("model.layers.0.mlp.down_proj.weight").g_idx, grid.g_idx)


def test_experts_in_one_tensor_have_no_room_for_a_group_index(tmp_path: Path) -> None:
    model = saved(tmp_path, "Mixtral", num_local_experts=2, num_experts_per_tok=1)
    (fault,) = Gptq(group_size=16, order="act_order").faults(model)
    assert "group_aware or given would do" in fault
    assert not list(Gptq(group_size=16).faults(model))


def test_groups_that_do_not_fit_are_refused_with_those_that_do(tmp_path: Path) -> None:
    """The sizes of stories260K: 64 and 172 input channels."""
    model = saved(tmp_path, intermediate_size=172)
    faults = list(Gptq(group_size=128).faults(model))
    assert any(
        "group_size 128 does not divide the 172 inputs of *.mlp.down_proj; 2, 4, 43, 86 or null would" in f
        for f in faults
    )
    assert any("64 inputs of *.mlp.gate_proj" in f and "32 or null would" in f for f in faults)
    override = {"*.down_proj": {"group_size": 43}}
    fit = Gptq(group_size=32, overrides=override)
    assert list(fit.faults(model)) == []
    result = fit.run(model, context())
    assert result.grid["model.layers.0.mlp.down_proj.weight"].group_size == 43


def test_write_shows_a_text_and_leaves_the_model(real: Path) -> None:
    model = LanguageModel(real / "models/stories260K/hf")
    lent = Context()
    assert Write(prompt="Once upon a time", tokens=24).run(model, lent) is model
    assert lent.facts["text"].startswith("Once upon a time, there was a little")
