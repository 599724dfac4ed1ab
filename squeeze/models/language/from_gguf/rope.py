"""Rotary embedding from a file's metadata and its tensors of factors, as transformers' ``rope_parameters``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from squeeze.errors import ModelError
from squeeze.models.language.from_gguf.metadata import Metadata

LLAMA3, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
LOW, HIGH = 1.0, 4.0  # the values of every Llama 3.1, 3.2 and 3.3
CONTEXTS = [2**power for power in range(3, 21)]  # tokens that a model knew before it was stretched
CLOSE = 1e-4  # relative; the factors are float32


def rope_parameters(metadata: Metadata, head_dim: int) -> dict[str, Any]:
    """The frequencies of a model.

    Raises:
        ModelError: a scaling that transformers cannot be told from what the file says.
    """
    values: dict[str, Any] = {"rope_type": "default", "rope_theta": metadata.real("rope.freq_base", 10_000.0)}
    rotated = metadata.integer("rope.dimension_count", head_dim)
    if not 0 < rotated <= head_dim or rotated % 2:
        raise ModelError(f"{metadata.path}: {rotated} channels of {head_dim} are rotated; an even share would do")
    if rotated != head_dim:
        values["partial_rotary_factor"] = rotated / head_dim
    if metadata.has(LLAMA3):
        return values | llama3(metadata, values["rope_theta"], head_dim)
    if metadata.has(LONG):
        return values | _longrope(metadata)
    kind = metadata.text("rope.scaling.type", "none")
    if kind == "linear":
        return values | {"rope_type": "linear", "factor": metadata.real("rope.scaling.factor")}
    if kind == "yarn":
        context = metadata.integer("rope.scaling.original_context_length")
        factor = metadata.real("rope.scaling.factor")
        return values | {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": context}
    if kind != "none":
        raise ModelError(f"{metadata.path}: rope.scaling.type '{kind}' is not read; none, linear and yarn are")
    return values


def llama3_factors(rope: dict[str, Any], head_dim: int) -> Tensor:
    """Llama 3.1's: long waves are stretched by ``factor``, short ones not, those between by degrees."""
    waves = 2 * torch.pi * rope["rope_theta"] ** (torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    low, high, context = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    share = ((context / waves - low) / (high - low)).clamp(0, 1)  # 0: a long wave, 1: a short one
    factors: Tensor = 1 / ((1 - share) / rope["factor"] + share)
    return factors.float()


def llama3(metadata: Metadata, theta: float, head_dim: int) -> dict[str, Any]:
    """The numbers of Llama 3.1's rule that give the factors in the file: it stores these, not the rule."""
    stored = _numbers(metadata, LLAMA3)
    factor = float(stored.max())
    for context in reversed(CONTEXTS):
        values: dict[str, Any] = {
            "factor": factor,
            "low_freq_factor": LOW,
            "high_freq_factor": HIGH,
            "rope_theta": theta,
        }
        values |= {"rope_type": "llama3", "original_max_position_embeddings": context}
        own = llama3_factors(values, head_dim)
        if own.shape == stored.shape and torch.allclose(own, stored, rtol=CLOSE, atol=0):
            return values
    raise ModelError(f"{metadata.path}: {LLAMA3} follows no rule of Llama 3.1 that transformers can be told")


def _longrope(metadata: Metadata) -> dict[str, Any]:
    context = metadata.integer("rope.scaling.original_context_length", metadata.integer("context_length"))
    return {
        "rope_type": "longrope",
        "long_factor": _numbers(metadata, LONG).tolist(),
        "short_factor": _numbers(metadata, SHORT).tolist(),
        "original_max_position_embeddings": context,
        "factor": metadata.integer("context_length") / max(context, 1),
    }


def _numbers(metadata: Metadata, name: str) -> Tensor:
    info = metadata.header.tensors.get(name)
    if info is None or info.kind != "F32" or len(info.shape) != 1 or info.shape[0] > 4096:
        raise ModelError(f"{metadata.path}: {name} is no list of at most 4,096 float32 factors")
    return torch.from_numpy(np.array(info.raw(metadata.path)).view(np.float32).reshape(-1))
