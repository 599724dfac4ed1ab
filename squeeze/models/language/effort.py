"""How much arithmetic work on a language model takes, by its shapes alone; the speed of a host makes it time."""

from __future__ import annotations

from squeeze.models.language.footprint import block_matrices
from squeeze.models.language.language_model import LanguageModel

AROUND_PRODUCT = 5  # times that what a product takes and gives is read or written: norms, gates, sums, copies
AROUND_SCORE = 8  # the same of a score between two tokens: softmax, mask


def head_macs(model: LanguageModel) -> int:
    """Of one token's logits."""
    return model.skeleton.hidden_size * (model.vocabulary or 0)


def block_macs(model: LanguageModel) -> int | None:
    """Of one token through all blocks, head apart; None: not known, as where a router chooses experts."""
    macs = model.macs()
    return None if macs is None else max(0, macs - head_macs(model))


def block_values(model: LanguageModel, length: int) -> int:
    """Numbers that all blocks read and write for one token of a sequence, beside its products."""
    beside = sum(sum(value.shape[-2:]) for _, value in block_matrices(model))
    heads = getattr(model.skeleton.config, "num_attention_heads", None) or 0
    return model.blocks * (AROUND_PRODUCT * beside + AROUND_SCORE * heads * length)
