"""``config.json`` from a file's metadata: what llama.cpp computes, in transformers' words.

Each architecture of llama.cpp is one family of transformers; what a file says that its family's code does not compute
is refused. Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from squeeze.errors import ModelError, did_you_mean
from squeeze.models.language.from_gguf.metadata import Metadata
from squeeze.models.language.from_gguf.rope import rope_parameters

Values = dict[str, Any]
EMBEDDING, HEAD = "token_embd.weight", "output.weight"
GEMMA2_27B, GEMMA3_27B = 46, 62  # blocks: their queries are scaled by hidden size / heads, all others' by the head's


@dataclass(frozen=True)
class Family:
    """How transformers runs an architecture.

    Args:
        model_type: Transformers' name; by the file where a family of llama.cpp's is several of transformers'.
        own: What only this family's config says.
        interleaved: Rotary pairs lie side by side in the file: rows of queries and keys are moved.
        added_to_norms: What the file's norms have more than the model's.
        norm: The config's name of the norms' epsilon.
    """

    model_type: str | Callable[[Metadata], str]
    own: Callable[[Metadata], Values] = lambda _: {}
    interleaved: bool = False
    added_to_norms: float = 0.0
    norm: str = "rms_norm_eps"


def config_of(found: Metadata) -> Values:
    """The values of a config.json.

    Raises:
        ModelError: an architecture that is not read, a size that is missing or does not fit.
    """
    family = family_of(found)
    kind = family.model_type if isinstance(family.model_type, str) else family.model_type(found)
    heads = found.integer("attention.head_count")
    values: Values = {
        "architectures": [_class_name(kind)],
        "model_type": kind,
        "hidden_size": found.integer("embedding_length"),
        "num_hidden_layers": found.integer("block_count"),
        "intermediate_size": found.integer("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": found.integer("attention.head_count_kv", heads),
        "head_dim": head_size(found),
        "max_position_embeddings": found.integer("context_length"),
        "vocab_size": vocabulary(found),
        "tie_word_embeddings": not found.has(HEAD),
        family.norm: found.real(_epsilon(family)),
        "rope_parameters": rope_parameters(found, head_size(found)),
        "dtype": "float32",
    }
    return values | _special_tokens(found, values["vocab_size"]) | family.own(found)


def family_of(found: Metadata) -> Family:
    """The family of a file.

    Raises:
        ModelError: it is not read.
    """
    name = found.architecture
    if name not in FAMILIES:
        known = ", ".join(FAMILIES)
        near = did_you_mean(name, FAMILIES)
        raise ModelError(f"{found.path}: the architecture '{name[:60]}' is not read from GGUF{near}; {known} are")
    return FAMILIES[name]


def head_size(found: Metadata) -> int:
    """Channels of one attention head."""
    heads, hidden = found.integer("attention.head_count"), found.integer("embedding_length")
    if not heads:
        raise ModelError(f"{found.path}: {found.key('attention.head_count')} is 0; at least 1 would do")
    size = found.integer("attention.key_length", hidden // heads)
    if size < 2 or size % 2 or found.integer("attention.value_length", size) != size:
        raise ModelError(f"{found.path}: heads of {size} channels; keys and values of one even length would do")
    return size


def vocabulary(found: Metadata) -> int:
    """How many tokens the embedding has a row for.

    Raises:
        ModelError: the metadata has more tokens, or says another number.
    """
    if not found.has(EMBEDDING):
        raise ModelError(f"{found.path}: holds no tensor {EMBEDDING}; a file with all weights would do")
    rows = found.header.tensors[EMBEDDING].rows
    said, tokens = found.integer("vocab_size", rows), len(found.array("tokenizer.ggml.tokens", str))
    if tokens > rows or said != rows:
        what = f"{tokens:,} tokens in the metadata" if tokens > rows else f"{found.key('vocab_size')} {said:,}"
        raise ModelError(f"{found.path}: {what} do not fit an embedding of {rows:,} rows")
    return rows


def _epsilon(family: Family) -> str:
    return "attention.layer_norm_epsilon" if family.norm != "rms_norm_eps" else "attention.layer_norm_rms_epsilon"


def _special_tokens(found: Metadata, size: int) -> Values:
    values: Values = {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        if found.get(f"tokenizer.ggml.{key}_token_id") is None:
            values[f"{name}_token_id"] = None
            continue
        place = found.integer(f"tokenizer.ggml.{key}_token_id")
        if place >= size:
            raise ModelError(f"{found.path}: tokenizer.ggml.{key}_token_id {place} is none of the {size:,} tokens")
        values[f"{name}_token_id"] = place
    return values


def _class_name(model_type: str) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name: str = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
    return name


def _llama(found: Metadata) -> Values:
    if found.integer("expert_count", 0):
        return _experts(found) | {"sliding_window": None}
    return {"attention_bias": found.has("blk.0.attn_q.bias"), "mlp_bias": found.has("blk.0.ffn_up.bias")}


def _experts(found: Metadata) -> Values:
    return {
        "num_local_experts": found.integer("expert_count"),
        "num_experts_per_tok": found.integer("expert_used_count"),
    }


def _qwen3_moe(found: Metadata) -> Values:
    return {
        "num_experts": found.integer("expert_count"),
        "num_experts_per_tok": found.integer("expert_used_count"),
        "moe_intermediate_size": found.integer("expert_feed_forward_length"),
        "norm_topk_prob": True,  # what llama.cpp computes
        "use_sliding_window": False,
        "attention_bias": found.has("blk.0.attn_q.bias"),
    }


def _gemma2(found: Metadata) -> Values:
    return {
        "attn_logit_softcapping": found.real("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": found.real("final_logit_softcapping", 30.0),
        "sliding_window": found.integer("attention.sliding_window", 4096),
        "query_pre_attn_scalar": _query_scale(found, GEMMA2_27B),
    }


def _gemma3(found: Metadata) -> Values:
    full = rope_parameters(found, head_size(found))
    sliding = {"rope_type": "default", "rope_theta": found.real("rope.freq_base_swa", 10_000.0)}
    blocks = found.integer("block_count")
    return {
        "sliding_window": found.integer("attention.sliding_window"),
        "query_pre_attn_scalar": _query_scale(found, GEMMA3_27B),
        "layer_types": ["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(min(blocks, 10_000))],
        "rope_parameters": {"full_attention": full, "sliding_attention": sliding},
        "final_logit_softcapping": found.real("final_logit_softcapping", 0.0) or None,
    }


def _query_scale(found: Metadata, largest: int) -> int:
    if found.integer("block_count") == largest:
        return found.integer("embedding_length") // found.integer("attention.head_count")
    return head_size(found)


def _cohere(found: Metadata) -> Values:
    return {"logit_scale": found.real("logit_scale"), "use_qk_norm": found.has("blk.0.attn_q_norm.weight")}


def _cohere2(found: Metadata) -> Values:
    return {"logit_scale": found.real("logit_scale"), "sliding_window": found.integer("attention.sliding_window")}


def _phi3(found: Metadata) -> Values:
    window = found.integer("attention.sliding_window", 0)
    return {
        "sliding_window": window or None,
        "original_max_position_embeddings": found.integer(
            "rope.scaling.original_context_length", found.integer("context_length")
        ),
    }


def _qwen3(found: Metadata) -> Values:
    return {"use_sliding_window": False, "attention_bias": found.has("blk.0.attn_q.bias")}


FAMILIES: dict[str, Family] = {  # by llama.cpp's name
    "llama": Family(lambda found: "mixtral" if found.integer("expert_count", 0) else "llama", _llama, interleaved=True),
    "qwen2": Family("qwen2", lambda _: {"use_sliding_window": False}),
    "qwen3": Family("qwen3", _qwen3),
    "qwen3moe": Family("qwen3_moe", _qwen3_moe),
    "phi3": Family("phi3", _phi3),
    "gemma": Family("gemma", added_to_norms=1.0),
    "gemma2": Family("gemma2", _gemma2, added_to_norms=1.0),
    "gemma3": Family("gemma3_text", _gemma3, added_to_norms=1.0),
    "command-r": Family("cohere", _cohere, norm="layer_norm_eps"),
    "cohere2": Family("cohere2", _cohere2, norm="layer_norm_eps"),
}
