"""Tiny random models of each family, of the real classes, with weights and norms that are not trivial."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from language_world import SIZES
from torch import Tensor, nn

SMALL: dict[str, Any] = SIZES | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}


def text_model(name: str, **changes: Any) -> Callable[[], nn.Module]:
    """A causal language model by the stem of its classes, ``Llama``."""

    def build() -> nn.Module:
        import transformers

        config = getattr(transformers, f"{name}Config")(**SMALL | changes)
        module: nn.Module = getattr(transformers, f"{name}ForCausalLM")(config)
        return module

    return build


def gemma3(**changes: Any) -> Callable[[], nn.Module]:
    """A Gemma 3 of text alone: seven blocks, one of which sees the whole text."""

    def build() -> nn.Module:
        from transformers import Gemma3ForCausalLM, Gemma3TextConfig

        sizes = SMALL | {"num_hidden_layers": 7, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 6}
        return Gemma3ForCausalLM(Gemma3TextConfig(**sizes | changes))

    return build


def _llava() -> nn.Module:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=CLIPVisionConfig(**VISION), text_config=LlamaConfig(**SMALL), image_token_index=127)
    )


def _minicpmv() -> nn.Module:
    from transformers import LlamaConfig, MiniCPMV4_6Config, MiniCPMV4_6ForConditionalGeneration

    vision = VISION | {"insert_layer_id": 1}
    return MiniCPMV4_6ForConditionalGeneration(
        MiniCPMV4_6Config(text_config=LlamaConfig(**SMALL).to_dict(), vision_config=vision, image_token_id=127)
    )


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "llama3.1": text_model(
        "Llama", rope_parameters=LLAMA3 | {"rope_theta": 5e5, "original_max_position_embeddings": 8}
    ),
    "mistral": text_model("Mistral", head_dim=32, sliding_window=6),
    "mixtral": text_model("Mixtral", num_local_experts=4, num_experts_per_tok=2),
    "phi3": text_model("Phi3"),
    "gemma": text_model("Gemma", head_dim=32),
    "gemma2": text_model("Gemma2", head_dim=32, sliding_window=6, query_pre_attn_scalar=24),
    "minicpm3": text_model(
        "MiniCPM3",
        num_key_value_heads=4,
        q_lora_rank=32,
        kv_lora_rank=32,
        qk_nope_head_dim=16,
        qk_rope_head_dim=16,
        v_head_dim=16,
        scale_emb=3,
        scale_depth=1.4,
        dim_model_base=32,
    ),
    "command-r": text_model("Cohere", logit_scale=0.25, use_qk_norm=True),
    "cohere2": text_model("Cohere2", logit_scale=0.25, sliding_window=6),
    "qwen2": text_model("Qwen2"),
    "qwen3": text_model("Qwen3", head_dim=32),
    "qwen3-moe": text_model(
        "Qwen3Moe", head_dim=32, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, decoder_sparse_step=1
    ),
    "llava": _llava,
    "minicpm-v": _minicpmv,
}


def write_family(
    name: str, folder: Path, dtype: torch.dtype = torch.float32, build: Callable[[], nn.Module] | None = None
) -> Path:
    """A tiny model of that family, or what ``build`` makes, in a folder as stock transformers saves it."""
    torch.manual_seed(0)
    module = (build or FAMILIES[name])().to(dtype)
    for parameter_name, parameter in module.named_parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter.data, float("norm" in parameter_name and "gemma" not in name), 0.2)
        else:
            nn.init.normal_(parameter.data, 0.0, 0.1)
    module.save_pretrained(folder)  # type: ignore[operator]
    return folder


def tokens(sequences: int = 4, length: int = 16) -> Tensor:
    """Random token ids ``[sequences, length]`` that name no image."""
    return torch.randint(1, 127, (sequences, length), generator=torch.Generator().manual_seed(1))


def stock_logits(folder: Path, dtype: torch.dtype | None = None) -> Tensor:
    """What stock transformers makes of the folder, in its own dtype or another."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    vision = hasattr(AutoConfig.from_pretrained(folder), "vision_config")
    kind = AutoModelForImageTextToText if vision else AutoModelForCausalLM
    with torch.no_grad():
        module, loading = kind.from_pretrained(folder, output_loading_info=True, dtype=dtype or "auto")
        assert not loading["missing_keys"], loading
        assert not loading["unexpected_keys"], loading
        logits: Tensor = module.eval()(input_ids=tokens()).logits
    return logits.float()
