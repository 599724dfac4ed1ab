"""A decoder with its cache inside: transformers' own forward, with attention, integer products and tables of ours.

Works for every family: blocks, scales, soft caps and biases are the model's own code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from squeeze.errors import ModelError
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.skeleton import Skeleton, fill
from squeeze.surgery.depth import shallow
from squeeze.writers.decoder.attention import NoCache
from squeeze.writers.pte_decoder.attention import NAME, Attention
from squeeze.writers.pte_decoder.pattern import Pattern
from squeeze.writers.pte_decoder.stand_ins import StandIns
from squeeze.writers.pte_decoder.weights import FloatTable, Rounding, integer_module, wide


class CachedDecoder(nn.Module):
    """Logits ``[1, length, vocabulary]`` of tokens at positions, which is also where they are remembered.

    Args:
        module: A causal language model with all its weights.
        context: Tokens that a text may have.
    """

    def __init__(self, module: nn.Module, context: int) -> None:
        super().__init__()
        self.module = module
        self.attention = Attention(self, context)
        configs: dict[int, Any] = {id(m.config): m.config for m in module.modules() if hasattr(m, "config")}
        for config in configs.values():
            config._attn_implementation = NAME
        with FakeTensorMode(allow_non_fake_inputs=True), self.attending(), torch.no_grad():
            self(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))  # makes the caches
        for name, cache in list(self.named_buffers(recurse=False)):
            self.register_buffer(name, torch.zeros(cache.shape))

    def forward(self, tokens: Tensor, cache_position: Tensor) -> Tensor:
        """int64 ``[1, length]`` and ``[length]``."""
        self.attention.begin(cache_position)
        places: dict[str, Any] = {"position_ids": cache_position[None], "attention_mask": None}
        logits: Tensor = self.module(input_ids=tokens, **places, cache=NoCache(), use_cache=True).logits
        return logits

    @contextmanager
    def attending(self) -> Iterator[None]:
        """Our attention in transformers' register, for as long as the ``with`` lasts."""
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        with patch.dict(ALL_ATTENTION_FUNCTIONS._global_mapping, {NAME: self.attention}):
            yield


def network(model: LanguageModel, context: int, pattern: Pattern | None = None) -> CachedDecoder:
    """The model with its weights in memory, float32 or integers.

    Args:
        pattern: Make those blocks alone that it keeps, with stand-ins for their weights.

    Raises:
        ModelError: a weight that has no form there; or the model calls no attention through transformers' interface.
    """
    skeleton = shallow(model, pattern.kept) if pattern else Skeleton.read(model.folder)
    weights = StandIns(model, pattern, skeleton) if pattern else model
    module, rounding = skeleton.module, Rounding()
    integers = [name for name in skeleton.names() if (pattern.whole(name) if pattern else name) in model.grid]
    tied = _head(module).weight is _table(module).weight
    for name in set(skeleton.names()) - set(integers):
        fill(module, name, wide(weights.tensor(name)))
    module.tie_weights()  # type: ignore[operator]
    for name in integers:
        owner = module.get_submodule(name.rpartition(".")[0])
        replacement = integer_module(owner, name, weights.quantized(name), rounding)
        if tied and owner is _table(module):
            head = integer_module(_head(module), name, weights.quantized(name), rounding)
            module.set_output_embeddings(head)  # type: ignore[operator]
        module.set_submodule(name.rpartition(".")[0], replacement)
    _narrow_table(model, module)
    decoder = CachedDecoder(module.eval(), context)
    if not decoder.attention.sizes:
        raise ModelError(f"{type(module).__name__} calls no attention through transformers' interface")
    return decoder


def _narrow_table(model: LanguageModel, module: nn.Module) -> None:
    """Keep a float table of tokens in its stored type: a call reads only some of its rows."""
    table, name = _table(module), model.skeleton.ends[0]
    if type(table) is nn.Embedding and name not in model.grid:
        module.set_input_embeddings(FloatTable(model.tensor(name)))  # type: ignore[operator]


def _table(module: nn.Module) -> Any:
    return module.get_input_embeddings()  # type: ignore[operator]


def _head(module: nn.Module) -> Any:
    return module.get_output_embeddings()  # type: ignore[operator]
