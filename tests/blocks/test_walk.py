"""Tokens on their way through a model whose code is not a family's: only its numbers count."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from squeeze.blocks.walk import Walk

TOKENS, HIDDEN = 12, 8


class TwoTables(nn.Module):
    """Looks its tokens up twice, as models with an embedding for each block do."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.further = nn.Embedding(TOKENS, HIDDEN), nn.Embedding(TOKENS, HIDDEN)
        self.layers = nn.ModuleList([nn.Linear(HIDDEN, HIDDEN)])

    def get_input_embeddings(self) -> nn.Embedding:
        return self.tokens

    def forward(self, input_ids: Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(logits=self.layers[0](self.tokens(input_ids) + self.further(input_ids)))


class Network:
    """The model as a walk knows it."""

    config = None

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = TwoTables().bfloat16()
        self.layers, self.dtype = self.module.layers, torch.bfloat16

    @contextmanager
    def in_place_of_blocks(self, stand_ins: list[nn.Module]) -> Iterator[None]:
        own, self.layers[0] = self.layers[0], stand_ins[0]
        yield
        self.layers[0] = own


def test_a_second_table_is_read_at_the_tokens_own_numbers() -> None:
    network, tokens = Network(), torch.tensor([[7, 3, 11], [3, 5, 7]])
    walk = Walk(network, tokens, 2, wide=True)
    walk.start()
    module = network.module
    assert torch.equal(walk.hidden, module.tokens.weight[tokens].float() + module.further.weight[tokens])
    assert module.tokens.weight.dtype == torch.bfloat16
