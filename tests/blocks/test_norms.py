"""What a norm's weight means and where norms stand, whatever a family calls them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from squeeze.blocks.norms import layer_norms_of, norms_behind, weight_offset
from squeeze.blocks.watch import Weight


def llama() -> nn.Module:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    return LlamaRMSNorm(8)


def gemma() -> nn.Module:
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm

    return Gemma2RMSNorm(8)


@pytest.mark.parametrize(
    ("norm", "offset"),
    [(llama, 0.0), (gemma, 1.0), (lambda: nn.LayerNorm(8), 0.0)],
    ids=["RMSNorm", "Gemma's, of one more", "LayerNorm with a bias"],
)
def test_what_is_added_to_a_weight_is_seen_and_the_weight_stays(norm: Any, offset: float) -> None:
    module = norm()
    nn.init.normal_(module.weight)
    before = {name: value.clone() for name, value in module.named_parameters()}
    assert weight_offset(module) == offset
    assert all(torch.equal(value, before[name]) for name, value in module.named_parameters())


class Block(nn.Module):
    """A norm before its matrix, one behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.matrix, self.behind = llama(), nn.Linear(8, 8), llama()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.behind(self.matrix(self.before(x)))


def test_a_norm_that_only_a_matrix_reads_is_not_behind_one() -> None:
    block, matrix = Block(), Weight("matrix.weight")
    x = torch.randn(2, 8)
    assert norms_behind(block, ["before", "behind"], [matrix], lambda: block(x)) == {matrix: ["behind"]}


def test_norms_that_know_how_many_channels_there_are_look_at_fewer() -> None:
    block = nn.Sequential(nn.LayerNorm(8, elementwise_affine=False), nn.LayerNorm(4, elementwise_affine=False))
    layer_norms_of(block, 8, 6)
    assert [norm.normalized_shape for norm in block] == [(6,), (4,)]
