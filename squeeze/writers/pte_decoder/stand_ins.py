"""Numbers at random in place of the weights of blocks that are exported for their structure alone."""

from __future__ import annotations

import torch
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.skeleton import Skeleton
from squeeze.writers.pte_decoder.pattern import Pattern


class StandIns:
    """The model's own weights outside blocks; inside them tensors of like shapes and grids, no two of them equal.

    Args:
        skeleton: Of the blocks that the pattern keeps.
    """

    def __init__(self, model: LanguageModel, pattern: Pattern, skeleton: Skeleton) -> None:
        self.model, self.pattern = model, pattern
        self.kinds = model.grid_kinds()
        self.shapes = {name: value.shape for name, value in skeleton.module.state_dict().items()}
        self.random = torch.Generator().manual_seed(0)

    def tensor(self, name: str) -> Tensor:
        if self.pattern.block_of(name) is None:
            return self.model.tensor(name)
        return torch.rand(self.shapes[name], generator=self.random)

    def quantized(self, name: str) -> QuantizedTensor:
        if self.pattern.block_of(name) is None:
            return self.model.quantized(name)
        kind = self.kinds[self.pattern.whole(name)]
        largest = 2 ** (kind.bits - 1) - 1
        q = torch.randint(-largest, largest + 1, (kind.rows, kind.columns), generator=self.random, dtype=torch.int8)
        scale = (1 + torch.rand(kind.rows, kind.groups, generator=self.random)).bfloat16().float()
        zeros = torch.zeros_like(scale, dtype=torch.int32)
        return QuantizedTensor(q, scale, zeros, kind.bits, kind.group_size, kind.symmetric)
