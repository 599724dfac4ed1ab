"""Tokenizers that llama.cpp knows, for tiny models, and quantized models of every family that it runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from families import SMALL, gemma3, text_model, write_family
from language_world import in_shards
from torch import nn

from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.quantize.rtn import Rtn

LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "factor": 2.0,
    "long_factor": [1.5] * 8,
    "short_factor": [1.1] * 8,
    "original_max_position_embeddings": 512,
}
STRETCHED = {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}
PLAIN = {"rope_type": "default", "rope_theta": 1e4}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
VARIANTS: dict[str, Callable[[], nn.Module]] = {  # of what families.py has
    "llama-bias-tied": text_model("Llama", attention_bias=True, tie_word_embeddings=True),
    "llama-linear": text_model("Llama", rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}),
    "mistral-window": text_model("Mistral", head_dim=32, sliding_window=64),
    "gemma2-256": text_model("Gemma2", head_dim=32, sliding_window=6, query_pre_attn_scalar=32),
    "gemma3": gemma3(),
    "gemma3-long": gemma3(rope_parameters={"full_attention": STRETCHED, "sliding_attention": PLAIN}),
    "gemma3-capped": gemma3(attn_logit_softcapping=50.0),
    "command-r-plain": text_model("Cohere", logit_scale=0.25),
    "cohere2-4": text_model("Cohere2", logit_scale=0.25, sliding_window=6, num_hidden_layers=4),
    "qwen3-128": text_model("Qwen3", head_dim=128),
    "qwen3-moe-topk": text_model("Qwen3Moe", head_dim=32, **MOE),
    "cohere2-full": text_model("Cohere2", logit_scale=0.25, layer_types=["full_attention"] * 2),
    "phi3-long": text_model(
        "Phi3",
        max_position_embeddings=1024,
        original_max_position_embeddings=512,
        rope_parameters=LONG,
    ),
}
AS_THEY_ARE = ["llama3.1", "mixtral", "phi3", "gemma", "cohere2", "qwen2", "qwen3"]
REFUSED = {
    "gemma2": r"gemma2 does not compute query_pre_attn_scalar 24 \(32 would do\)",
    "gemma3-capped": "gemma3 does not compute logits with soft caps",
    "command-r": r"command-r does not compute use_qk_norm with 2 blocks \(64 or more would do\)",
    "cohere2-full": "cohere2 does not compute layer_types other than full attention in every block number 4",
    "qwen3-moe": "qwen3moe does not compute norm_topk_prob false",
    "minicpm3": "no GGUF architecture is written for model_type 'minicpm3'; llama, mistral",
    "llava": "no GGUF architecture is written for model_type 'llava'",
}


def write_letters(folder: Path, size: int = SMALL["vocab_size"]) -> None:
    """SentencePiece's kind of BPE: one token per letter."""
    special = ["<unk>", "<s>", "</s>"]
    vocabulary = {text: place for place, text in enumerate([*special, "▁", *map(chr, range(33, 127))][:size])}
    model = {"type": "BPE", "unk_token": "<unk>", "byte_fallback": True, "vocab": vocabulary, "merges": []}
    added = [{"id": place, "content": text, "special": True} for place, text in enumerate(special)]
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    (folder / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": added, "normalizer": spaces}))


def quantized(name: str, folder: Path, bits: int = 8) -> LanguageModel:
    """A tiny model of a family with a tokenizer, on the grid."""
    family = write_family(name, folder / "family", build=VARIANTS.get(name))
    write_letters(family)
    return in_shards(Rtn(bits=bits, group_size=32).run(LanguageModel(family), Context()))
