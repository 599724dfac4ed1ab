"""Batches of different lengths and masks on their way through blocks that are all in memory.

The model's own code runs once per batch with recorders in place of its blocks, which note what each is called with
(masks, positions); from there on a block is one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from squeeze.blocks.walk import Call, Recorder
from squeeze.errors import ModelError


class Blocks(Protocol):
    """A module in memory, as far as a walk knows it."""

    module: nn.Module
    layers: nn.ModuleList

    def with_blocks(self, blocks: Sequence[nn.Module]) -> AbstractContextManager[None]:
        """The module with others in place of its blocks."""
        ...


class _Enough(Exception):
    """No error: all that was to be seen has been."""


class _LastRecorder(Recorder):
    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        super().forward(hidden, *args, **kwargs)
        raise _Enough


class BatchWalk:
    """Activations of some batches, block after block.

    Args:
        states: Per batch, what goes into the next block, ``[n, length, hidden]``.
        calls: Per batch and block, what else it is called with.
    """

    def __init__(self, layers: nn.ModuleList, states: list[Tensor], calls: list[list[Call]]) -> None:
        self.layers, self.states, self.calls = layers, states, calls

    @classmethod
    @torch.no_grad()
    def started(cls, blocks: Blocks, runs: Iterable[Callable[[], object]]) -> BatchWalk:
        """Before the first block.

        Args:
            runs: Each sends one batch through the module.
        """
        states: list[Tensor] = []
        calls: list[list[Call]] = []
        for run in runs:
            recorders = [Recorder(block) for block in blocks.layers[:-1]] + [_LastRecorder(blocks.layers[-1])]
            with blocks.with_blocks(recorders), suppress(_Enough):
                run()
            noted = [recorder.call for recorder in recorders if recorder.call is not None]
            if len(noted) < len(recorders) or recorders[0].hidden is None:
                raise ModelError(f"{type(blocks.module).__name__}: its forward does not call every block")
            states.append(recorders[0].hidden)
            calls.append(noted)
        return cls(blocks.layers, states, calls)

    def twin(self) -> BatchWalk:
        """The same activations on a way of their own."""
        return BatchWalk(self.layers, list(self.states), self.calls)

    def on(self, layers: nn.ModuleList) -> BatchWalk:
        """The same activations for other blocks: narrower ones."""
        return BatchWalk(layers, self.states, self.calls)

    @torch.no_grad()
    def block(self, index: int, batch: int) -> Tensor:
        """What a block gives for a batch."""
        args, kwargs = self.calls[batch][index]
        output = self.layers[index](self.states[batch], *args, **kwargs)
        return output if isinstance(output, Tensor) else output[0]

    def through(self, index: int) -> None:
        """Send all batches through one block."""
        self.states = [self.block(index, batch) for batch in range(len(self.states))]
