"""A model whose weights are all in memory as one module with gradients, whatever it is stored as."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from squeeze.algorithms.affine import QuantizedTensor
    from squeeze.models.base import Batch
    from squeeze.models.language.adapter import LowRank
    from squeeze.models.tasks.base import Task
    from squeeze.models.torch_model import TorchModel
    from squeeze.models.torch_stage import TorchStage


@dataclass(frozen=True)
class Beside:
    """What is written beside the weights of a module, each by a weight's name.

    Args:
        grids: Of weights that lie on one.
        updates: What an adapter adds to weights that stay.
        merged: What is added to weights as they are written.
    """

    grids: Mapping[str, QuantizedTensor] = field(default_factory=dict)
    updates: Mapping[str, LowRank] = field(default_factory=dict)
    merged: Mapping[str, LowRank] = field(default_factory=dict)


NOTHING = Beside()


class Resident(ABC):
    """What a training loop may know of a model.

    A prediction is one row: one per example of a classifier, one per token but the last of a language model. What it is
    right about, and what a training makes smaller, the model's task says.
    """

    module: nn.Module
    task: Task

    @abstractmethod
    def output(self, batch: Batch) -> Tensor:
        """What the module gives, with gradients."""

    def predictions(self, batch: Batch) -> Tensor:
        """``[predictions, width]``, with gradients."""
        return self.task.predictions(self.output(batch))

    def targets(self, batch: Batch) -> Tensor | None:
        """What is right, one entry per prediction; None where the data does not say it."""
        return self.task.targets(batch)

    @abstractmethod
    def golden(self) -> Batch:
        """Examples of ours, of the model's task."""

    @abstractmethod
    def micro_batch(self, batch: Batch) -> int:
        """Examples that go through the module at once; gradients of the parts of a batch are added."""

    @abstractmethod
    def commit(self, folder: Path, beside: Beside = NOTHING) -> TorchStage:
        """The model with the weights as they are now, in evaluation mode.

        Args:
            folder: Empty; where a model lies whose weights are kept on disk.
            beside: Grids and updates are a language model's alone.
        """

    @property
    def vocabulary(self) -> int | None:
        """How many tokens its predictions are of; None: they are of none."""
        return None

    def blocks(self) -> list[nn.Module]:
        """The blocks of the module, in order; none where it is not known to be made of blocks."""
        return []

    def pieces(self) -> list[nn.Module]:
        """Parts of the module that are called one after the other and share no weight: blocks, and others like them."""
        return self.blocks()

    def grids(self) -> Mapping[str, QuantizedTensor]:
        """The grids of quantized weights that can be trained, by name; each is read when it is asked for."""
        return {}

    def value(self, name: str) -> Tensor:
        """A weight that the module computes with, wherever it lies."""
        return self.module.get_parameter(name).detach()

    def read_trained(self) -> None:  # noqa: B027, most have all weights in memory
        """Take the weights that gradients reach into memory, where they are not."""

    def fixed(self) -> list[str]:
        """Names of quantized weights that stay as they are."""
        return []

    def recompute(self) -> bool:
        """Let what lies inside blocks be worked out again for its gradient; gives whether the module can do so."""
        return False


class ResidentTorchModel(Resident):
    """The module of a :class:`TorchModel` itself, with images in the layout that a CPU's convolutions are fast in."""

    def __init__(self, model: TorchModel) -> None:
        self.model, self.module, self.task = model, model.module, model.task
        self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def output(self, batch: Batch) -> Tensor:
        inputs = batch.inputs.items()
        return self.model.forward({name: channels_last(value) for name, value in inputs})

    def golden(self) -> Batch:
        return self.task.golden(self.model)

    def micro_batch(self, batch: Batch) -> int:
        return len(batch)  # batch norm sees a whole batch

    def commit(self, folder: Path, beside: Beside = NOTHING) -> TorchModel:
        self.module.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
        for name, update in beside.merged.items():
            self.value(name).add_(update.weight())
        return self.model


def channels_last(value: Tensor) -> Tensor:
    """Images ``[n, c, h, w]`` with the channels of a pixel side by side in memory; anything else as it is."""
    return value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value
