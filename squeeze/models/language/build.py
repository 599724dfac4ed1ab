"""A family's module on the meta device, built from ``config.json``; code from the folder is never run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from squeeze.errors import ModelError, first_line
from squeeze.formats.regular import read_json

MOST_COMPUTED_BYTES = 10**9
READ = ("gptq", "compressed-tensors")  # packed by others, and read into the grid


def build(folder: Path, values: Mapping[str, Any]) -> nn.Module:
    """The module of a config, with what its code computes (rotary frequencies) and without weights.

    Args:
        folder: Where the config is from, for messages.
        values: Of its config.json.

    Raises:
        ModelError: transformers cannot build it, or it is no model that says what text comes next.
    """
    kind = values.get("model_type")
    if not isinstance(kind, str):
        raise ModelError(f"{folder}: config.json names no model_type")
    try:
        config = _config(values)
        config._experts_implementation = "eager"  # one product per expert, so that each can be watched
        with torch.device("meta"):
            module: nn.Module = _class_for(config).from_config(config, trust_remote_code=False)
        _compute_buffers(module)
    except Exception as error:  # whatever transformers' code makes of a config that does not fit it
        reason = first_line(error.__cause__ or error)  # strict configs wrap it
        raise ModelError(f"{folder}: model_type '{kind}' cannot be built: {reason}") from None
    return module


def accepted(values: Mapping[str, Any]) -> bool:
    """Whether transformers takes a config of these values: some families bind one size to another."""
    try:
        _config(values)
    except Exception:  # whatever transformers' code makes of a config that does not fit it
        return False
    return True


def _config(values: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig

    options = {key: value for key, value in values.items() if key not in ("model_type", "architectures")}
    return AutoConfig.for_model(str(values.get("model_type")), **options)


def text_values(values: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What the config of ``values`` says otherwise, where ``new`` is of the model of text in it."""
    text = values.get("text_config")
    return {"text_config": {**text, **new}} if isinstance(text, dict) else dict(new)


def config_values(file: Path) -> dict[str, Any]:
    """What a config.json says.

    Raises:
        ModelError: there is none, or it is of a model that others quantized.
    """
    values = read_json(file)
    if not isinstance(values, dict):
        raise ModelError(f"{file}: no config can be read here (no JSON object)")
    if quantized := values.get("quantization_config"):
        method = quantized.get("quant_method", "?") if isinstance(quantized, dict) else quantized
        if method not in READ:
            what = f"is quantized already, by {method}, which is not read"
            raise ModelError(
                f"{file.parent}: {what}; a checkpoint of {' or '.join(READ)}, or the model before, would do"
            )
    unasked = ("auto_map", "transformers_version", "quantization_config")
    return {key: value for key, value in values.items() if key not in unasked}


def _class_for(config: Any) -> Any:
    """The class that makes logits of text: a causal language model, or the whole of one that also sees."""
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
    )

    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForCausalLM
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and hasattr(config, "text_config"):
        return AutoModelForImageTextToText
    raise ValueError("transformers has neither a causal language model nor an image-text-to-text one of that type")


def _compute_buffers(module: nn.Module) -> None:
    """Give a value to what no checkpoint stores and the code computes, such as rotary frequencies."""
    size = sum(buffer.nbytes for buffer in module.buffers())
    if size > MOST_COMPUTED_BYTES:
        raise ValueError(f"its tables by position take {size / 1e9:.1f} GB; 1 GB is the most")
    for owner, child in _owned(module, module):
        computed = {n: b for n, b in child._buffers.items() if b is not None and n in child._non_persistent_buffers_set}
        for name, buffer in computed.items():
            child._buffers[name] = torch.empty_like(buffer, device="cpu")
        if computed:
            owner._init_weights(child)  # type: ignore[operator]


def _owned(owner: nn.Module, module: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Every module, with the model (the vision tower, the language tower, the whole) that initializes it."""
    yield owner, module
    for child in module.children():
        yield from _owned(child if hasattr(child, "_init_weights") else owner, child)
