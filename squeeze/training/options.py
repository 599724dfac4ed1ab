"""What a plan may say of a training; the passes that train have these options beside their own."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Lt
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import nn


class TrainingOptions(BaseModel):
    """Length, step size and optimizer of a training."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    epochs: PositiveInt = 10
    """Times that all training examples are seen; each finished epoch is on disk before the next begins."""
    batch_size: PositiveInt = 64
    """Examples, or text sequences, per step."""
    learning_rate: Annotated[float, Gt(0)] = 0.01
    """The highest rate; lower it when the loss is not finite. AdamW wants about a hundredth of SGD's."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd: Nesterov momentum, for convolutional networks; adamw: for transformers."""
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Of sgd."""
    weight_decay: Annotated[float, Ge(0)] = 5e-4
    """Pull of the weights towards zero."""
    schedule: Literal["cosine", "one_cycle", "constant"] = "cosine"
    """How the rate falls after the warm-up."""
    warm_up: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of all steps in which the rate rises."""
    augment: tuple[Literal["flip", "crop"], ...] = ()
    """Random changes to images; flip is wrong for digits."""

    def new_optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """An optimizer of all parameters that are to be trained."""
        weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if self.optimizer == "adamw":
            return torch.optim.AdamW(weights, self.learning_rate, weight_decay=self.weight_decay)
        nesterov = self.momentum > 0
        return torch.optim.SGD(
            weights, self.learning_rate, self.momentum, weight_decay=self.weight_decay, nesterov=nesterov
        )
