"""Rotary embedding from a file's metadata and its tensors of factors, as transformers' ``rope_parameters``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from squeeze.errors import ModelError
from squeeze.models.language.from_gguf.metadata import Metadata

LLAMA3, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
LOW, HIGH = 1.0, 4.0  # of every Llama 3.1, 3.2 and 3.3
CONTEXTS = [2**power for power in range(3, 21)]  # tokens that a model knew before it was stretched
CLOSE = 1e-4  # relative; the factors are float32


def rope_parameters(found: Metadata, head_dim: int) -> dict[str, Any]:
    """The frequencies of a model.

    Raises:
        ModelError: a scaling that transformers cannot be told from what the file says.
    """
    values: dict[str, Any] = {"rope_type": "default", "rope_theta": found.real("rope.freq_base", 10_000.0)}
    rotated = found.integer("rope.dimension_count", head_dim)
    if not 0 < rotated <= head_dim or rotated % 2:
        raise ModelError(f"{found.path}: {rotated} channels of {head_dim} are rotated; an even share would do")
    if rotated != head_dim:
        values["partial_rotary_factor"] = rotated / head_dim
    if found.has(LLAMA3):
        return values | llama3(found, values["rope_theta"], head_dim)
    if found.has(LONG):
        return values | _longrope(found)
    kind = found.text("rope.scaling.type", "none")
    if kind == "linear":
        return values | {"rope_type": "linear", "factor": found.real("rope.scaling.factor")}
    if kind == "yarn":
        known = found.integer("rope.scaling.original_context_length")
        factor = found.real("rope.scaling.factor")
        return values | {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": known}
    if kind != "none":
        raise ModelError(f"{found.path}: rope.scaling.type '{kind}' is not read; none, linear and yarn are")
    return values


def llama3_factors(rope: dict[str, Any], head_dim: int) -> Tensor:
    """Llama 3.1's: long waves are stretched by ``factor``, short ones not, those between by degrees."""
    waves = 2 * torch.pi * rope["rope_theta"] ** (torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    low, high, known = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    share = ((known / waves - low) / (high - low)).clamp(0, 1)  # 0: a long wave, 1: a short one
    factors: Tensor = 1 / ((1 - share) / rope["factor"] + share)
    return factors.float()


def llama3(found: Metadata, theta: float, head_dim: int) -> dict[str, Any]:
    """The numbers of Llama 3.1's rule that give the factors in the file: it stores these, not the rule."""
    stored = _numbers(found, LLAMA3)
    factor = float(stored.max())
    for known in reversed(CONTEXTS):
        values: dict[str, Any] = {
            "factor": factor,
            "low_freq_factor": LOW,
            "high_freq_factor": HIGH,
            "rope_theta": theta,
        }
        values |= {"rope_type": "llama3", "original_max_position_embeddings": known}
        own = llama3_factors(values, head_dim)
        if own.shape == stored.shape and torch.allclose(own, stored, rtol=CLOSE, atol=0):
            return values
    raise ModelError(f"{found.path}: {LLAMA3} follows no rule of Llama 3.1 that transformers can be told")


def _longrope(found: Metadata) -> dict[str, Any]:
    known = found.integer("rope.scaling.original_context_length", found.integer("context_length"))
    return {
        "rope_type": "longrope",
        "long_factor": _numbers(found, LONG).tolist(),
        "short_factor": _numbers(found, SHORT).tolist(),
        "original_max_position_embeddings": known,
        "factor": found.integer("context_length") / max(known, 1),
    }


def _numbers(found: Metadata, name: str) -> Tensor:
    info = found.header.tensors.get(name)
    if info is None or info.kind != "F32" or len(info.shape) != 1 or info.shape[0] > 4096:
        raise ModelError(f"{found.path}: {name} is no list of at most 4,096 float32 factors")
    return torch.from_numpy(np.array(info.raw(found.path)).view(np.float32).reshape(-1))
