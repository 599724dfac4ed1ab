"""What a plan may say of a training; the passes that train have these options beside their own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Lt
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import nn

from squeeze.models.base import Model
from squeeze.models.tasks.base import Optimizer


class TrainingOptions(BaseModel):
    """Length, step size and optimizer of a training."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    epochs: PositiveInt = 10
    """Times that all training examples are seen; each finished epoch is on disk before the next begins."""
    batch_size: PositiveInt = 64
    """Examples, or text sequences, per step."""
    learning_rate: Annotated[float, Gt(0)] | None = None
    """The highest rate; lower it when the loss is not finite. null: 0.01 for sgd, else 0.0001 for a language model,
    0.00005 for another that reads tokens, 0.001 for the rest."""
    optimizer: Optimizer | None = None
    """sgd: Nesterov momentum, for convolutional networks; adamw: for transformers. null: by what the model reads."""
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

    def trains_with(self, model: Model) -> Optimizer:
        """The optimizer as the plan names it, or as the model's task has it."""
        return self.optimizer or model.task.optimizer(model)

    def for_model(self, model: Model) -> dict[str, Any]:
        """The options that the plan leaves to the model's task, as it decides them."""
        optimizer = self.trains_with(model)
        rate = self.learning_rate or model.task.learning_rate(model, optimizer)
        return {"optimizer": optimizer, "learning_rate": rate}

    def new_optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """An optimizer of all parameters that are to be trained."""
        weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
        assert self.learning_rate is not None, "the pass has settled it"
        if self.optimizer == "adamw":
            return torch.optim.AdamW(weights, self.learning_rate, weight_decay=self.weight_decay)
        nesterov = self.momentum > 0
        return torch.optim.SGD(
            weights, self.learning_rate, self.momentum, weight_decay=self.weight_decay, nesterov=nesterov
        )
