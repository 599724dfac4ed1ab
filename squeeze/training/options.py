"""What a plan may say of a training; the passes that train have these options beside their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Lt
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import nn

from squeeze.algorithms.units import multiplies
from squeeze.models.base import Model
from squeeze.models.options import Unused
from squeeze.models.tasks.base import Optimizer
from squeeze.training.trained import Trained

Products = Literal["float32", "bfloat16"]
LORA_RATE = 10  # LoRA's learning rate, as a multiple of the usual one


class TrainingOptions(BaseModel):
    """Length, step size and optimizer of a training."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    ranked: ClassVar[str] = "train: lora"  # what rank is of

    epochs: PositiveInt = 10
    """Times that all training examples are seen; each finished epoch is on disk before the next begins."""
    train: Trained = "all"
    """all: every weight; last_blocks: the last `blocks` of them; norms: what normalizes, a thousandth of the weights;
    lora: low-rank adapters of the linears in the blocks, merged in the end, a fraction of the optimizer's memory."""
    blocks: PositiveInt = 2
    """Of train: last_blocks."""
    rank: PositiveInt = 16
    """Of train: lora."""
    steps: PositiveInt | None = None
    """Steps in all, over parts of an epoch or several; null: as `epochs` says."""
    batch_size: PositiveInt = 64
    """Examples, or text sequences, per step, of all processes together where torchrun started several."""
    learning_rate: Annotated[float, Gt(0)] | None = None
    """The highest rate; lower it when the loss is not finite. null: 0.01 for sgd, 0.003 for adafactor, else 0.0001 for
    a language model, 0.00005 for another that reads tokens, 0.001 for the rest; ten times that with train: lora."""
    optimizer: Optimizer | None = None
    """sgd: Nesterov momentum, for convolutional networks; adamw: for transformers; adafactor: as adamw, but what it
    keeps of a matrix is a row and a column (Shazeer and Stern, 2018, https://arxiv.org/abs/1804.04235): where memory
    is short. null: by what the model reads."""
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
    held_out: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the training examples that is not learnt from: the weights with the lowest loss on it are kept. 0: the
    last weights are."""
    evaluate_every: PositiveInt | None = None
    """Steps between two looks at the held-out examples; null: once per epoch."""
    patience: PositiveInt = 3
    """Looks without a lower loss after which the training stops."""
    recompute: bool = False
    """Work out what lies inside a block again for its gradient: less memory, every block computed once more."""
    frozen: Literal["memory", "disk"] = "memory"
    """Where weights of a language model lie that are not trained. disk: a block's are read as it computes, a teacher's
    too, and every block computes once more, as with recompute: memory hardly grows with the number of blocks."""
    sharded: bool = False
    """Where torchrun started several processes, each keeps its part of weights, gradients and optimizer state
    (PyTorch's FSDP2) and is sent the others' block by block: less memory in each, more to send. Started alone: as
    without."""
    products: Products | None = None
    """How matrices are multiplied. bfloat16: factors are rounded to it and sums are float32, where the CPU has units
    for that; elsewhere, and always with float32, nothing is rounded. null: bfloat16 for a model that reads tokens,
    float32 for another."""

    def trains_with(self, model: Model) -> Optimizer:
        """The optimizer as the plan names it, or as the model's task has it."""
        return self.optimizer or model.task.optimizer(model)

    def for_model(self, model: Model) -> dict[str, Any]:
        """The options that the plan leaves to the model's task, as it decides them."""
        optimizer = self.trains_with(model)
        usual = model.task.learning_rate(model, optimizer) * (LORA_RATE if self.trains_adapters else 1)
        rate = self.learning_rate or usual
        products = self.products or ("bfloat16" if model.reads_tokens() else "float32")
        return {"optimizer": optimizer, "learning_rate": rate, "products": products}

    @property
    def trains_adapters(self) -> bool:
        """Whether what is trained is low-rank adapters."""
        return self.train == "lora"

    @property
    def on_disk(self) -> bool:
        """Whether frozen weights are read as they are computed with."""
        return self.frozen == "disk"

    @property
    def computes_again(self) -> bool:
        """Whether each block computes a second time, for its gradient."""
        return self.recompute or self.on_disk

    @property
    def rounds(self) -> bool:
        """Whether products round their factors on this CPU; of a pass whose options are settled."""
        return self.products == "bfloat16" and multiplies(torch.bfloat16)

    def unread(self) -> Iterator[Unused]:
        """Options that others of them leave nothing to do."""
        if self.train != "last_blocks":
            yield Unused("blocks", "goes with train: last_blocks")
        if not self.trains_adapters:
            yield Unused("rank", f"goes with {self.ranked}")
        if self.on_disk:
            yield Unused("recompute", "is what frozen: disk does in any case")
        if self.steps is not None:
            yield Unused("epochs", "is how long a training lasts that has no steps")
        if not self.held_out:
            yield Unused("evaluate_every", "is of the examples that held_out sets apart, and it sets none")
            yield Unused("patience", "is of the examples that held_out sets apart, and it sets none")

    def new_optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """An optimizer of all parameters that are to be trained."""
        weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
        assert self.learning_rate is not None, "the pass has settled it"
        if self.optimizer == "adamw":
            flat = all(weight.is_contiguous() for weight in weights)  # fused steps misread a resumed state that is not
            return torch.optim.AdamW(weights, self.learning_rate, weight_decay=self.weight_decay, fused=flat)
        if self.optimizer == "adafactor":
            return torch.optim.Adafactor(weights, self.learning_rate, weight_decay=self.weight_decay)
        nesterov = self.momentum > 0
        return torch.optim.SGD(
            weights, self.learning_rate, self.momentum, weight_decay=self.weight_decay, nesterov=nesterov
        )
