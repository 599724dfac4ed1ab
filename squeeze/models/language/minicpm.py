"""MiniCPM as the Llama that it is: its three scales multiplied into the weights.

Hu et al., 2024, https://arxiv.org/abs/2404.06395. MiniCPM multiplies the embedded tokens by ``scale_emb``, what each
attention and each MLP adds by ``scale_depth / sqrt(layers)``, and divides what the head sees by
``hidden_size / dim_model_base``. Each stands right behind or before a weight, so a Llama with scaled weights computes
the same. The head can no longer be tied to the embedding: the two are scaled by different factors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from squeeze.errors import ModelError

KIND = "minicpm"
SCALES = ("scale_emb", "scale_depth", "dim_model_base")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def as_llama(values: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of the Llama; any other family's comes back as it is.

    Raises:
        ModelError: a MiniCPM with experts, which is no Llama.
    """
    if values.get("model_type") != KIND:
        return dict(values)
    if values.get("num_experts"):
        raise ModelError(f"model_type '{KIND}' with num_experts is no Llama; only the dense MiniCPM is folded into one")
    config = {key: value for key, value in values.items() if key not in (*SCALES, "auto_map")}
    return config | {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False}


def factors(values: Mapping[str, Any]) -> dict[str, float]:
    """By name in the Llama, what each stored weight is multiplied by; empty for any other family."""
    if values.get("model_type") != KIND:
        return {}
    layers = int(values["num_hidden_layers"])
    residual_scale = float(values.get("scale_depth", 1)) / layers**0.5
    scaled = {EMBEDDING: float(values.get("scale_emb", 1))}
    scaled[HEAD] = float(values.get("dim_model_base", 1)) / float(values["hidden_size"])
    for index in range(layers):
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            scaled |= {f"model.layers.{index}.{name}.{kind}": residual_scale for kind in ("weight", "bias")}
    return scaled


def scaled(value: Tensor, factor: float) -> Tensor:
    """Multiplied as float32, then rounded to its own dtype."""
    return (value.float() * factor).to(value.dtype)
