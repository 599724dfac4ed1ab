"""MiniCPM, which transformers does not know, is read as the Llama that its scales make of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from families import SMALL, stock_logits, tokens
from language_world import in_shards
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from squeeze.errors import ModelError
from squeeze.models.base import Batch
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.quantize.rtn import Rtn

LAYERS, HEADS, HIDDEN = 2, 4, 64
SCALES = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 16, "rms_norm_eps": 1e-5}


def write(folder: Path, tied: bool, dtype: torch.dtype = torch.float32, **changes: object) -> Path:
    """Random weights under the names of MiniCPM's checkpoints, which are Llama's."""
    torch.manual_seed(0)
    weights = {"model.embed_tokens.weight": torch.randn(128, HIDDEN) * 0.1, "model.norm.weight": torch.rand(HIDDEN) + 1}
    if not tied:
        weights["lm_head.weight"] = torch.randn(128, HIDDEN) * 0.1
    for index in range(LAYERS):
        prefix = f"model.layers.{index}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            weights[f"{prefix}self_attn.{name}.weight"] = torch.randn(HIDDEN, HIDDEN) * 0.1
        for name, shape in {"gate_proj": (96, HIDDEN), "up_proj": (96, HIDDEN), "down_proj": (HIDDEN, 96)}.items():
            weights[f"{prefix}mlp.{name}.weight"] = torch.randn(shape) * 0.1
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{prefix}{name}.weight"] = torch.rand(HIDDEN) + 0.5
    save_file({name: value.to(dtype) for name, value in weights.items()}, folder / "model.safetensors")
    config = (
        SMALL | SCALES | {"model_type": "minicpm", "num_key_value_heads": 4, "architectures": ["MiniCPMForCausalLM"]}
    )
    config |= {"tie_word_embeddings": tied, "dtype": str(dtype).removeprefix("torch."), **changes}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def reference(folder: Path, ids: Tensor) -> Tensor:
    """MiniCPM's forward as its paper and its code have it, float32."""
    w = {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}
    depth = SCALES["scale_depth"] / LAYERS**0.5
    x = w["model.embed_tokens.weight"][ids] * SCALES["scale_emb"]
    for index in range(LAYERS):
        layer = {n.split(f"layers.{index}.")[1]: v for n, v in w.items() if f"layers.{index}." in n}
        x = x + _attention(_norm(x, layer["input_layernorm.weight"]), layer) * depth
        x = x + _mlp(_norm(x, layer["post_attention_layernorm.weight"]), layer) * depth
    x = _norm(x, w["model.norm.weight"]) / (HIDDEN / SCALES["dim_model_base"])
    return x @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + SCALES["rms_norm_eps"]) * weight


def _mlp(x: Tensor, layer: dict[str, Tensor]) -> Tensor:
    gate, up, down = (layer[f"mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
    return (functional.silu(x @ gate.T) * (x @ up.T)) @ down.T


def _attention(x: Tensor, layer: dict[str, Tensor]) -> Tensor:
    n, length, _ = x.shape
    q, k, v = (
        (x @ layer[f"self_attn.{name}_proj.weight"].T).reshape(n, length, HEADS, -1).transpose(1, 2) for name in "qkv"
    )
    mixed = functional.scaled_dot_product_attention(_rotated(q), _rotated(k), v, is_causal=True)
    return mixed.transpose(1, 2).reshape(n, length, HIDDEN) @ layer["self_attn.o_proj.weight"].T


def _rotated(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2])[:, None] / 10000 ** (torch.arange(half) / half)
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_folded_llama_says_what_minicpm_says(tmp_path: Path, tied: bool) -> None:
    model = LanguageModel(write(tmp_path, tied))
    expected = reference(tmp_path, tokens())
    assert expected.std() > 0.1
    assert torch.allclose(model.predict(Batch({"input_ids": tokens()})), expected, atol=1e-4)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_once_written_anew_it_is_a_stock_llama_and_not_scaled_twice(tmp_path: Path, tied: bool) -> None:
    (tmp_path / "minicpm").mkdir()
    original = LanguageModel(write(tmp_path / "minicpm", tied))
    original.save_dense(tmp_path / "llama")
    assert torch.allclose(stock_logits(tmp_path / "llama"), reference(original.folder, tokens()), atol=1e-4)
    quantized = in_shards(Rtn(bits=8, group_size=16).run(original, Context()))
    quantized.save_dense(tmp_path / "quantized")
    walked = quantized.predict(Batch({"input_ids": tokens()}))
    assert torch.allclose(walked, stock_logits(tmp_path / "quantized"), atol=1e-5)
    assert torch.allclose(walked, reference(original.folder, tokens()), atol=0.2)


def test_bf16_weights_stay_bf16(tmp_path: Path) -> None:
    model = LanguageModel(write(tmp_path, True, torch.bfloat16))
    assert model.tensor("lm_head.weight").dtype == torch.bfloat16
    assert model.nbytes() == (tmp_path / "model.safetensors").stat().st_size


def test_a_minicpm_with_experts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model_type 'minicpm' with num_experts is no Llama; only the dense MiniCPM"):
        LanguageModel(write(tmp_path, True, num_experts=8))
