"""The torch stage: a module whose weights are all in memory (``TorchModel``) or in shards on disk (``LanguageModel``).

A pass asks for what a model can do (``blocks``, ``matrices``, ``resident``), never which of the two it is.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from squeeze.models.base import Model
from squeeze.references import resolve

KINDS = ("squeeze.models.torch_model:TorchModel", "squeeze.models.language.language_model:LanguageModel")


@dataclass(frozen=True)
class WeightShape:
    """A weight as the matrix ``[rows, channels x kernel]``: experts one under the other, kernels flattened.

    Args:
        channels: Input channels.
        kernel: Places of a convolution's kernel.
        experts: How many lie in one 3-D tensor; None: it is none of experts.
    """

    rows: int
    channels: int
    kernel: int = 1
    experts: int | None = None

    @property
    def matrix(self) -> tuple[int, int]:
        """``(rows, columns)``."""
        return self.rows, self.channels * self.kernel

    @classmethod
    def of_layer(cls, shape: tuple[int, ...]) -> WeightShape:
        """Of ``[out, in, *kernel]``."""
        return cls(shape[0], shape[1], math.prod(shape[2:]))

    @classmethod
    def of_linear(cls, shape: tuple[int, ...]) -> WeightShape:
        """Of ``[out, in]`` or ``[experts, out, in]``."""
        return cls(math.prod(shape[:-1]), shape[-1], experts=shape[0] if len(shape) > 2 else None)


class TorchStage(Model):
    """What a torch model can do, wherever its weights lie.

    Args:
        module: Its structure; where weights lie in shards, on the meta device.
        grid: Its quantized weights, by parameter name.
    """

    module: nn.Module
    grid: Mapping[str, Any]

    @classmethod
    def forms(cls) -> tuple[type[Model], ...]:
        """In a bracket, the stage alone stands for both."""
        return tuple(map(resolve, KINDS)) if cls is TorchStage else (cls,)

    @abstractmethod
    def matrices(self) -> dict[str, WeightShape]:
        """Weights that a quantizer may take, by full parameter name, in the order in which they run."""

    @abstractmethod
    def value(self, name: str) -> Tensor:
        """A weight by its full parameter name; a quantized one is dequantized."""

    def gridless(self) -> dict[str, str]:
        """Layers with a weight matrix that no quantizer may take, each with the reason, where users ask for it."""
        return {}

    @property
    def ends(self) -> list[str]:
        """Full parameter names of a language model's embedding and, where it is not tied, head."""
        return []

    def marks(self) -> frozenset[str]:
        return frozenset({"quantized"} if self.grid else ())

    def module_names(self) -> list[str]:
        return [name for name, _ in self.module.named_modules() if name]

    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.module.parameters())
