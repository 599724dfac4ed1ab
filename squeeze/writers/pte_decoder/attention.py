"""Attention over a cache of a fixed number of tokens, in operators that ExecuTorch has.

Keys and values of new tokens are written into the cache at their positions; scores are worked out against all of it,
and places that hold no token before the query's get none. Lengths are ``[1, length]`` tokens at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from squeeze.writers.decoder.attention import refuse_unknown

NAME = "squeeze_cache"  # under which transformers finds it
LOWEST = torch.finfo(torch.float32).min


class Attention:
    """Called by transformers in place of its attention functions.

    Args:
        caches: The module whose buffers ``keys_0``, ``values_0`` ... are the caches ``[kv heads, context, channels]``.
        context: Tokens that they have room for.
    """

    def __init__(self, caches: nn.Module, context: int) -> None:
        self.caches, self.context = caches, context
        self.sizes: list[tuple[int, int, int]] = []  # of each layer: kv heads, channels of keys, of values
        self.begin(torch.zeros(1, dtype=torch.int64))

    def begin(self, positions: Tensor) -> None:
        """A forward of tokens at ``positions`` begins."""
        self.positions, self.layer = positions, 0
        self._hidden: dict[int | None, Tensor] = {}

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **options: Any
    ) -> tuple[Tensor, None]:
        """``[1, length, heads, channels]``, and no weights."""
        refuse_unknown(module, options)
        keys, values = self._remembered(key, value)
        scaling, window = options.get("scaling"), options.get("sliding_window")
        query = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        scores = torch.bmm(_by_kv_head(query, len(keys)), keys.transpose(1, 2))
        if softcap := options.get("softcap"):
            scores = torch.tanh(scores / softcap) * softcap
        heads, length = query.shape[1:3]
        scores = scores.view(heads, length, self.context) + self._bias(window)
        shares = torch.softmax(scores, dim=-1).view(len(keys), -1, self.context)
        output = torch.bmm(shares, values).view(1, heads, length, values.shape[-1])
        return _in_order(output.transpose(1, 2)), None

    def _remembered(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The caches of this layer with the new tokens in them."""
        layer, self.layer = self.layer, self.layer + 1
        if layer == len(self.sizes):
            self.sizes.append((key.shape[1], key.shape[3], value.shape[3]))
            for name, part in (("keys", key), ("values", value)):
                room = torch.zeros(part.shape[1], self.context, part.shape[3])
                self.caches.register_buffer(f"{name}_{layer}", room)
        keys, values = (self.caches.get_buffer(f"{name}_{layer}") for name in ("keys", "values"))
        for cache, new in ((keys, key), (values, value)):
            torch.ops.aten.index_put_(cache, [None, self.positions], _in_order(new)[0])
        return keys, values

    def _bias(self, window: int | None) -> Tensor:
        """float32 ``[length, context]``: 0 where a token may look, the lowest number elsewhere."""
        if window not in self._hidden:
            places, here = torch.arange(self.context)[None], self.positions[:, None]
            seen = places <= here
            if window:
                seen = seen & (places > here - window)
            self._hidden[window] = torch.where(seen, 0.0, LOWEST)
        return self._hidden[window]


def _by_kv_head(query: Tensor, kv_heads: int) -> Tensor:
    """``[kv heads, heads per kv head x length, channels]``."""
    return _in_order(query).view(kv_heads, -1, query.shape[-1])


def _in_order(x: Tensor) -> Tensor:
    """In memory as its shape says, without asking how it lies: that would depend on the length."""
    return x.clone(memory_format=torch.contiguous_format)
