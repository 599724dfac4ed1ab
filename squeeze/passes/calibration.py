"""Calibration data on its way through a model, for passes that look at what goes into its weights."""

from __future__ import annotations

import torch
from torch import Tensor

from squeeze.blocks.walk import Walk
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context

CHUNK_TOKENS = 1024  # tokens that pass a block together: what they give fits the cache
KEPT_BYTES = 512 << 20  # of what goes into a block's last products, kept for the passes to come; of a plan's memory 1/8


def kept_bytes(limit: int | None) -> int:
    """The most that may be kept, of all walks together."""
    return KEPT_BYTES if limit is None else min(KEPT_BYTES, limit // 8)


def calibration_tokens(context: Context) -> Tensor:
    """int64 ``[sequences, length]``."""
    return torch.cat([batch.inputs["input_ids"] for batch in context.calibration.batches(64)])


def calibration_walk(model: LanguageModel, context: Context) -> Walk:
    """The calibration sequences, embedded."""
    tokens = calibration_tokens(context)
    spill = context.spill(tokens.numel() * model.skeleton.token_bytes)
    return model.walk(tokens, max(1, CHUNK_TOKENS // tokens.shape[1]), spill)
