"""Blocks of a module in training whose weights stay on disk, but for those that are trained.

A frozen weight is read when its block computes, forward and, worked out again, backward, and let go after it, so that
one block's are in memory at a time (as gradient checkpointing, Chen et al., 2016, https://arxiv.org/abs/1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from squeeze.models.language.memory import trim_heap
from squeeze.models.language.skeleton import filled


def read_as_it_computes(block: nn.Module, read: Callable[[str], Tensor]) -> None:
    """Let a block without weights have them for as long as it computes.

    Args:
        read: Gives a weight as the block computes with it, by its name in the block.
    """
    forward = block.forward

    def compute(*args: Any, **kwargs: Any) -> Any:
        with _filled(block, read):
            return forward(*args, **kwargs)

    def either(*args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            return checkpoint(compute, *args, use_reentrant=False, **kwargs)
        return compute(*args, **kwargs)

    block.forward = either


def absent(module: nn.Module) -> list[str]:
    """Names of the weights that a module has only the shapes of."""
    return [name for name, value in module.named_parameters() if value.is_meta]


@contextmanager
def _filled(block: nn.Module, read: Callable[[str], Tensor]) -> Iterator[None]:
    try:
        with filled(block, absent(block), read):
            yield
    finally:
        trim_heap(cycles=False)
