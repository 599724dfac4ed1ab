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


def config_of(metadata: Metadata) -> Values:
    """The values of a config.json.

    Raises:
        ModelError: an architecture that is not read, a size that is missing or does not fit.
    """
    family = family_of(metadata)
    kind = family.model_type if isinstance(family.model_type, str) else family.model_type(metadata)
    heads = metadata.integer("attention.head_count")
    values: Values = {
        "architectures": [_class_name(kind)],
        "model_type": kind,
        "hidden_size": metadata.integer("embedding_length"),
        "num_hidden_layers": metadata.integer("block_count"),
        "intermediate_size": metadata.integer("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.integer("attention.head_count_kv", heads),
        "head_dim": head_size(metadata),
        "max_position_embeddings": metadata.integer("context_length"),
        "vocab_size": vocabulary(metadata),
        "tie_word_embeddings": not metadata.has(HEAD),
        family.norm: metadata.real(_epsilon(family)),
        "rope_parameters": rope_parameters(metadata, head_size(metadata)),
        "dtype": "float32",
    }
    return values | _special_tokens(metadata, values["vocab_size"]) | family.own(metadata)


def family_of(metadata: Metadata) -> Family:
    """The family of a file.

    Raises:
        ModelError: it is not read.
    """
    name = metadata.architecture
    if name not in FAMILIES:
        known = ", ".join(FAMILIES)
        near = did_you_mean(name, FAMILIES)
        raise ModelError(f"{metadata.path}: the architecture '{name[:60]}' is not read from GGUF{near}; {known} are")
    return FAMILIES[name]


def head_size(metadata: Metadata) -> int:
    """Channels of one attention head."""
    heads, hidden = metadata.integer("attention.head_count"), metadata.integer("embedding_length")
    if not heads:
        raise ModelError(f"{metadata.path}: {metadata.key('attention.head_count')} is 0; at least 1 would do")
    size = metadata.integer("attention.key_length", hidden // heads)
    if size < 2 or size % 2 or metadata.integer("attention.value_length", size) != size:
        raise ModelError(f"{metadata.path}: heads of {size} channels; keys and values of one even length would do")
    return size


def vocabulary(metadata: Metadata) -> int:
    """How many tokens the embedding has a row for.

    Raises:
        ModelError: the metadata has more tokens, or says another number.
    """
    if not metadata.has(EMBEDDING):
        raise ModelError(f"{metadata.path}: holds no tensor {EMBEDDING}; a file with all weights would do")
    rows = metadata.header.tensors[EMBEDDING].rows
    declared, tokens = metadata.integer("vocab_size", rows), len(metadata.array("tokenizer.ggml.tokens", str))
    if tokens > rows or declared != rows:
        what = f"{tokens:,} tokens in the metadata" if tokens > rows else f"{metadata.key('vocab_size')} {declared:,}"
        raise ModelError(f"{metadata.path}: {what} do not fit an embedding of {rows:,} rows")
    return rows


def _epsilon(family: Family) -> str:
    return "attention.layer_norm_epsilon" if family.norm != "rms_norm_eps" else "attention.layer_norm_rms_epsilon"


def _special_tokens(metadata: Metadata, size: int) -> Values:
    values: Values = {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        if metadata.get(f"tokenizer.ggml.{key}_token_id") is None:
            values[f"{name}_token_id"] = None
            continue
        place = metadata.integer(f"tokenizer.ggml.{key}_token_id")
        if place >= size:
            raise ModelError(f"{metadata.path}: tokenizer.ggml.{key}_token_id {place} is none of the {size:,} tokens")
        values[f"{name}_token_id"] = place
    return values


def _class_name(model_type: str) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name: str = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
    return name


def _llama(metadata: Metadata) -> Values:
    if metadata.integer("expert_count", 0):
        return _experts(metadata) | {"sliding_window": None}
    return {"attention_bias": metadata.has("blk.0.attn_q.bias"), "mlp_bias": metadata.has("blk.0.ffn_up.bias")}


def _experts(metadata: Metadata) -> Values:
    return {
        "num_local_experts": metadata.integer("expert_count"),
        "num_experts_per_tok": metadata.integer("expert_used_count"),
    }


def _qwen3_moe(metadata: Metadata) -> Values:
    return {
        "num_experts": metadata.integer("expert_count"),
        "num_experts_per_tok": metadata.integer("expert_used_count"),
        "moe_intermediate_size": metadata.integer("expert_feed_forward_length"),
        "norm_topk_prob": True,  # what llama.cpp computes
        "use_sliding_window": False,
        "attention_bias": metadata.has("blk.0.attn_q.bias"),
    }


def _gemma2(metadata: Metadata) -> Values:
    return {
        "attn_logit_softcapping": metadata.real("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": metadata.real("final_logit_softcapping", 30.0),
        "sliding_window": metadata.integer("attention.sliding_window", 4096),
        "query_pre_attn_scalar": _query_scale(metadata, GEMMA2_27B),
    }


def _gemma3(metadata: Metadata) -> Values:
    full = rope_parameters(metadata, head_size(metadata))
    sliding = {"rope_type": "default", "rope_theta": metadata.real("rope.freq_base_swa", 10_000.0)}
    blocks = metadata.integer("block_count")
    return {
        "sliding_window": metadata.integer("attention.sliding_window"),
        "query_pre_attn_scalar": _query_scale(metadata, GEMMA3_27B),
        "layer_types": ["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(min(blocks, 10_000))],
        "rope_parameters": {"full_attention": full, "sliding_attention": sliding},
        "final_logit_softcapping": metadata.real("final_logit_softcapping", 0.0) or None,
    }


def _query_scale(metadata: Metadata, largest: int) -> int:
    if metadata.integer("block_count") == largest:
        return metadata.integer("embedding_length") // metadata.integer("attention.head_count")
    return head_size(metadata)


def _cohere(metadata: Metadata) -> Values:
    return {"logit_scale": metadata.real("logit_scale"), "use_qk_norm": metadata.has("blk.0.attn_q_norm.weight")}


def _cohere2(metadata: Metadata) -> Values:
    return {"logit_scale": metadata.real("logit_scale"), "sliding_window": metadata.integer("attention.sliding_window")}


def _phi3(metadata: Metadata) -> Values:
    window = metadata.integer("attention.sliding_window", 0)
    return {
        "sliding_window": window or None,
        "original_max_position_embeddings": metadata.integer(
            "rope.scaling.original_context_length", metadata.integer("context_length")
        ),
    }


def _qwen3(metadata: Metadata) -> Values:
    return {"use_sliding_window": False, "attention_bias": metadata.has("blk.0.attn_q.bias")}


FAMILIES: dict[str, Family] = {  # by llama.cpp's name
    "llama": Family(lambda file: "mixtral" if file.integer("expert_count", 0) else "llama", _llama, interleaved=True),
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
