"""What llama.cpp must be told of a family: its name there, its sizes, and what of its config llama.cpp cannot run.

llama.cpp computes each architecture by code of its own, so a config that asks for anything else is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Add = Callable[[Any, Any], None]
Faults = Callable[[Any], Iterator[str]]


@dataclass(frozen=True)
class Architecture:
    """A family in llama.cpp's terms.

    Args:
        name: Its architecture there.
        add: Writes what only this family has into a GGUFWriter, from the config.
        faults: What of a config llama.cpp would compute otherwise.
        interleaved: Rotary pairs lie side by side there, half a head apart in transformers: rows are permuted.
        added_to_norms: What its norms' weights lack (Gemma stores them less one).
        layer_norm: Its norms take a mean off (Command R).
        ropes: Kinds of rotary embedding that it can be told.
        windowed: It honours a sliding window; else a text must not be longer than one.
    """

    name: str
    add: Add = lambda writer, config: None
    faults: Faults = lambda config: iter(())
    interleaved: bool = False
    added_to_norms: float = 0.0
    layer_norm: bool = False
    ropes: tuple[str, ...] = ("default", "linear")
    windowed: bool = False


def _experts(writer: Any, config: Any) -> None:
    writer.add_expert_count(config.num_local_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)


def _qwen3_moe(writer: Any, config: Any) -> None:
    writer.add_expert_count(config.num_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)


def _phi3(writer: Any, config: Any) -> None:
    writer.add_sliding_window(0)
    context = config.rope_parameters.get("original_max_position_embeddings") or config.max_position_embeddings
    writer.add_rope_scaling_orig_ctx_len(context)
    stretched = config.max_position_embeddings / context
    if config.rope_parameters.get("rope_type") == "longrope":
        writer.add_rope_scaling_attn_factors(
            math.sqrt(1 + math.log(stretched) / math.log(context)) if stretched > 1 else 1.0
        )


def _gemma2(writer: Any, config: Any) -> None:
    writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    writer.add_final_logit_softcapping(config.final_logit_softcapping)
    writer.add_sliding_window(config.sliding_window)


def _gemma3(writer: Any, config: Any) -> None:
    writer.add_sliding_window(config.sliding_window)


def _cohere(writer: Any, config: Any) -> None:
    writer.add_logit_scale(config.logit_scale)
    writer.add_rope_scaling_type(_gguf().RopeScalingType.NONE)


def _cohere2(writer: Any, config: Any) -> None:
    _cohere(writer, config)
    writer.add_sliding_window(config.sliding_window)


def _no_window(config: Any) -> Iterator[str]:
    if getattr(config, "use_sliding_window", False):
        yield "use_sliding_window"


def _qwen3_moe_faults(config: Any) -> Iterator[str]:
    yield from _no_window(config)
    if not config.norm_topk_prob:
        yield "norm_topk_prob false"
    if config.mlp_only_layers or config.decoder_sparse_step != 1:
        yield "decoder blocks without experts"


def _gemma2_faults(config: Any) -> Iterator[str]:
    scaled_by = config.head_dim if config.num_hidden_layers != 46 else config.hidden_size // config.num_attention_heads
    if config.query_pre_attn_scalar != scaled_by:
        yield f"query_pre_attn_scalar {config.query_pre_attn_scalar} ({scaled_by} would do)"
    if not (config.attn_logit_softcapping and config.final_logit_softcapping):
        yield "logits without soft caps"
    yield from _alternating(config, 2)


def _gemma3_faults(config: Any) -> Iterator[str]:
    scaled_by = config.head_dim if config.num_hidden_layers != 62 else config.hidden_size // config.num_attention_heads
    if config.query_pre_attn_scalar != scaled_by:
        yield f"query_pre_attn_scalar {config.query_pre_attn_scalar} ({scaled_by} would do)"
    if config.attn_logit_softcapping or config.final_logit_softcapping:
        yield "logits with soft caps"
    if config.use_bidirectional_attention:
        yield "use_bidirectional_attention"
    near = config.rope_parameters["sliding_attention"]
    if near["rope_type"] != "default" or near["rope_theta"] != 10_000:
        yield f"rope_theta {near['rope_theta']:g} in windows (10000 would do)"
    yield from _alternating(config, 6)


def _cohere_faults(config: Any) -> Iterator[str]:
    if config.use_qk_norm and config.num_hidden_layers < 64:
        yield f"use_qk_norm with {config.num_hidden_layers} blocks (64 or more would do)"


def _alternating(config: Any, every: int) -> Iterator[str]:
    expected = ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(config.num_hidden_layers)]
    if list(config.layer_types) != expected:
        yield f"layer_types other than full attention in every block number {every}"


LLAMA = Architecture("llama", interleaved=True, ropes=("default", "linear", "llama3"))
ARCHITECTURES = {  # by transformers' model_type
    "llama": LLAMA,
    "mistral": LLAMA,
    "mixtral": Architecture("llama", _experts, interleaved=True),
    "qwen2": Architecture("qwen2", faults=_no_window, ropes=("default", "linear", "llama3")),
    "qwen3": Architecture("qwen3", faults=_no_window, ropes=("default", "linear", "llama3")),
    "qwen3_moe": Architecture("qwen3moe", _qwen3_moe, _qwen3_moe_faults),
    "phi3": Architecture("phi3", _phi3, ropes=("default", "longrope")),
    "gemma": Architecture("gemma", added_to_norms=1.0),
    "gemma2": Architecture("gemma2", _gemma2, _gemma2_faults, added_to_norms=1.0, windowed=True),
    "gemma3_text": Architecture("gemma3", _gemma3, _gemma3_faults, added_to_norms=1.0, windowed=True),
    "cohere": Architecture("command-r", _cohere, _cohere_faults, layer_norm=True, ropes=("default",)),
    "cohere2": Architecture(
        "cohere2",
        _cohere2,
        lambda config: _alternating(config, 4),
        layer_norm=True,
        ropes=("default",),
        windowed=True,
    ),
}
ACTIVATIONS = ("silu", "gelu_pytorch_tanh", "gelu_tanh", "gelu_new")  # each architecture has its own of these


def describe(writer: Any, config: Any, architecture: Architecture) -> None:
    """Write the sizes that every architecture has, and its own."""
    heads, head_dim = config.num_attention_heads, head_size(config)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(context_length(config, architecture))
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads or heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_vocab_size(config.vocab_size)
    rope = rope_of(config)
    writer.add_rope_dimension_count(int(head_dim * (rope.get("partial_rotary_factor") or 1)))
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(_gguf().RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    if architecture.layer_norm:
        writer.add_layer_norm_eps(config.layer_norm_eps)
    else:
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    architecture.add(writer, config)


def faults(config: Any, architecture: Architecture) -> Iterator[str]:
    """What a config asks for that llama.cpp's code of this architecture does not do."""
    kind = rope_of(config).get("rope_type", "default")
    if kind not in architecture.ropes:
        yield f"rope_type {kind}"
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    if activation not in ACTIVATIONS or (activation == "silu") != (not architecture.name.startswith("gemma")):
        yield f"the activation {activation}"
    yield from architecture.faults(config)


def context_length(config: Any, architecture: Architecture) -> int:
    """The longest text that llama.cpp computes as transformers does: within the window where it knows none."""
    window = getattr(config, "sliding_window", None)
    longest: int = config.max_position_embeddings
    uses = not architecture.windowed and getattr(config, "use_sliding_window", True)
    return min(longest, window) if window and uses else longest


def rope_of(config: Any) -> dict[str, Any]:
    """The rotary embedding of the blocks that see the whole text (Gemma 3 has another in its windows)."""
    values: dict[str, Any] = config.rope_parameters or {}
    full: dict[str, Any] = values.get("full_attention", values)
    return full


def head_size(config: Any) -> int:
    """Channels of one attention head."""
    size: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return size


def _gguf() -> Any:
    import gguf

    return gguf
