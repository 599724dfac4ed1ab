"""Token sequences on their way through a model, one block in memory at a time.

What a model is made of and where its weights lie is the business of ``squeeze.models``: here it is a ``Network``. Its
own code runs before the first block and behind the last: once with recorders in place of the blocks, which note what
each is called with (masks, positions), and once with a stand-in that hands over the finished activations. So scaled
embeddings, soft caps and logit scales are the model's own, in every family.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from squeeze.blocks.kept import Kept
from squeeze.blocks.mapped import MappedTensor
from squeeze.blocks.watch import Weight
from squeeze.blocks.wide_products import wide_products
from squeeze.errors import ModelError

Call = tuple[tuple[Any, ...], dict[str, Any]]


class Network(Protocol):
    """A model without its weights, as far as a walk knows it."""

    module: nn.Module
    layers: nn.ModuleList
    config: Any

    @property
    def dtype(self) -> torch.dtype:
        """What the activations between two blocks are."""
        ...

    def in_place_of_blocks(self, stand_ins: list[nn.Module]) -> AbstractContextManager[None]:
        """The model with something else where its blocks were."""
        ...


class Recorder(nn.Module):
    """In place of a block: records the call, returns the activations unchanged."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = [block]  # in a list, so that torch does not register it as a child
        self.call: Call | None = None
        self.hidden: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattribute__("block")[0], name)

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.call, self.hidden = (args, kwargs), hidden
        return hidden


class Replayer(Recorder):
    """In place of a block: returns given activations, whatever the input."""

    output: Tensor

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.output


class Walk:
    """Activations of sequences of one length, block after block.

    Args:
        network: The model; its tensors outside the blocks must be filled while ``start`` and ``finish`` run.
        tokens: int64 ``[sequences, length]``.
        chunk: Sequences that go through a block together.
        spill: A file for the activations, where they should not lie in memory.
        wide: Activations are float32, whatever the weights are.
    """

    def __init__(
        self, network: Network, tokens: Tensor, chunk: int, spill: Path | None = None, wide: bool = False
    ) -> None:
        self.network, self.tokens, self.chunk, self.spill, self.wide = network, tokens, chunk, spill, wide
        self.calls: dict[int, list[Call]] = {}  # arguments of each block, by number of sequences in a chunk
        self.hidden = torch.empty(0)
        self.mapped: MappedTensor | None = None
        self.kept: Kept | None = None  # of the block that a pass is at

    def chunks(self) -> Iterator[slice]:
        """The sequences, a chunk at a time."""
        for start in range(0, len(self.tokens), self.chunk):
            yield slice(start, min(start + self.chunk, len(self.tokens)))

    @torch.no_grad()
    def start(self) -> None:
        """Embed all tokens."""
        for part in self.chunks():
            recorders = [Recorder(block) for block in self.network.layers]
            with self.network.in_place_of_blocks(list(recorders)), self._embedding(part) as tokens:
                self._model(tokens, head=False)
            first = recorders[0].hidden
            if first is None or any(recorder.call is None for recorder in recorders):
                raise ModelError(f"{type(self.network.module).__name__}: its forward does not call every decoder block")
            self.calls.setdefault(len(first), [recorder.call for recorder in recorders if recorder.call])
            if not len(self.hidden):
                self.hidden = self._room(first)
            self.hidden[part] = first
            self.release(part)

    def twin(self) -> Walk:
        """An independent copy of the walk; its activations lie in a file if this walk's do."""
        spill = self.spill.with_name(f"{self.spill.name}-twin") if self.spill else None
        other = Walk(self.network, self.tokens, self.chunk, spill, self.wide)
        other.calls, other.hidden = self.calls, other._room(self.hidden)
        other.hidden.copy_(self.hidden)
        return other

    def on(self, network: Network) -> Walk:
        """A walk of another network, with other widths, that shares these activations' memory."""
        other = copy(self)
        other.network, other.kept = network, None
        return other

    @torch.no_grad()
    def through(self, index: int, each: Callable[[slice], object] | None = None, keep: bool = True) -> None:
        """Send all activations through one block, whose weights are loaded.

        Args:
            each: Called after each chunk.
            keep: Replace the activations by what the block gives; off, they stay what goes into it.
        """
        for part in self.chunks():
            output = self.chunk_through(index, part)
            if keep:
                self.hidden[part] = output
            if each is not None:
                each(part)
            self.release(part)
        self.kept = None if keep else self.kept

    def chunk_through(self, index: int, part: slice, watched: Collection[Weight] = ()) -> Tensor:
        """One block on a chunk of the activations; what is kept of it does not run again.

        Args:
            watched: Weights whose inputs must be seen.
        """
        if self.kept is None or self.kept.index != index:
            return self.block(index, self.hidden[part])
        with self.kept.in_place(self.network.layers[index], part, watched):
            return self.block(index, self.hidden[part])

    @torch.no_grad()
    def block(self, index: int, hidden: Tensor) -> Tensor:
        """One block on some activations ``[n, length, hidden]``."""
        return self.traced_block(index, hidden)

    def traced_block(self, index: int, hidden: Tensor) -> Tensor:
        """The same; gradients can flow back through it where they are enabled."""
        args, kwargs = self.calls[len(hidden)][index]
        with wide_products(hidden.dtype, self.wide):
            output = self.network.layers[index](hidden, *args, **kwargs)
        return output if isinstance(output, Tensor) else output[0]

    @torch.no_grad()
    def finish(self) -> Iterator[tuple[slice, Tensor]]:
        """Logits float32 ``[n, length, vocabulary]`` of each chunk."""
        for part in self.chunks():
            yield part, self.behind(self.hidden[part], self.tokens[part])
            self.release(part)

    def finish_at(self, is_scored: Tensor, most: int) -> Iterator[tuple[slice, Tensor]]:
        """Logits of some tokens alone.

        Args:
            is_scored: bool ``[sequences, length]``.
            most: Tokens whose logits are worked out at once.

        Yields:
            Which of the scored tokens, in rows of the sequences, and their logits float32 ``[tokens, vocabulary]``.
        """
        places = is_scored.nonzero()
        for start in range(0, len(places), most):
            part = slice(start, min(start + most, len(places)))
            yield part, self.logits_at(places[part])

    @torch.no_grad()
    def logits_at(self, places: Tensor) -> Tensor:
        """Logits float32 ``[n, vocabulary]`` at ``[n, 2]`` places, sequence and token, in order.

        Each is a sequence of its own: what stands behind the blocks looks at one token at a time.
        """
        row, column = places.unbind(1)
        hidden, tokens = self.hidden[row, column][:, None], self.tokens[row, column][:, None]
        self.release(slice(int(row[0]), int(row[-1]) + 1))
        return self.behind(hidden, tokens)[:, 0]

    def behind(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Logits float32 of activations behind the last block."""
        stand_ins = [Replayer(block) for block in self.network.layers]
        for stand_in in stand_ins:
            stand_in.output = hidden
        with self.network.in_place_of_blocks(list(stand_ins)):
            return self._model(tokens).float()

    @contextmanager
    def _embedding(self, part: slice) -> Iterator[Tensor]:
        """The tokens of a chunk; where activations are wide, numbered anew in a float32 table of theirs alone.

        A model with a further table (of positions, of tokens for each block) keeps their numbers and widens the whole.
        """
        tokens = self.tokens[part]
        if not self.wide or self.network.dtype == torch.float32:
            yield tokens
            return
        embedding = self.network.module.get_input_embeddings()  # type: ignore[operator]
        whole, padding = embedding._parameters["weight"], embedding.padding_idx
        used, places = (slice(None), tokens) if self._has_tables else torch.unique(tokens, return_inverse=True)
        embedding._parameters["weight"] = nn.Parameter(whole[used].float(), requires_grad=False)
        embedding.padding_idx = None  # may lie outside the small table
        try:
            yield places
        finally:
            embedding._parameters["weight"], embedding.padding_idx = whole, padding

    def _model(self, tokens: Tensor, head: bool = True) -> Tensor:
        keep = {} if head or not self._keeps_some else {"logits_to_keep": torch.empty(0, dtype=torch.int64)}
        with wide_products(self.network.dtype, self.wide):
            output = self.network.module(input_ids=tokens, use_cache=False, **keep)
        logits: Tensor = output.logits
        return logits

    @cached_property
    def _keeps_some(self) -> bool:
        """Whether the model can leave out the head for the tokens that it is told, and so for all."""
        return "logits_to_keep" in inspect.signature(self.network.module.forward).parameters

    @cached_property
    def _has_tables(self) -> bool:
        """Whether there is an embedding outside the blocks beside that of the tokens."""
        inside = {id(module) for module in self.network.layers.modules()}
        tables = [m for m in self.network.module.modules() if isinstance(m, nn.Embedding) and id(m) not in inside]
        return len(tables) > 1

    def _room(self, first: Tensor) -> Tensor:
        """Where all activations lie: in memory, or in a file."""
        shape = (len(self.tokens), *first.shape[1:])
        if self.spill is None:
            return torch.empty(shape, dtype=first.dtype)
        self.mapped = MappedTensor.create(self.spill, shape, first.dtype)
        return self.mapped.tensor

    def release(self, part: slice) -> None:
        """Free the memory of activations that lie in a file."""
        if self.mapped is not None:
            self.mapped.release(part)
