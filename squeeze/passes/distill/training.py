"""The training loop that ``finetune`` and ``distill`` share: seeded, resumable at every epoch, same bytes each time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt
from pydantic import PositiveInt
from torch import Tensor, nn

from squeeze.algorithms import augment, schedules
from squeeze.algorithms.threads import threads
from squeeze.errors import SqueezeError
from squeeze.models.base import Batch
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context, Pass
from squeeze.passes.distill.checkpoint import Checkpoint

Loss = Callable[[Batch], Tensor]


class TrainingPass(Pass[TorchModel, TorchModel]):
    """Options and loop; what is learnt from a batch, the subclass says."""

    needs: ClassVar[frozenset[str]] = frozenset({"train"})
    refuses: ClassVar[frozenset[str]] = frozenset({"quantized"})
    promises: ClassVar[frozenset[str]] = frozenset({"weights_changed"})

    epochs: PositiveInt = 10
    batch_size: PositiveInt = 64
    learning_rate: Annotated[float, Gt(0)] = 0.01  # the highest; lower it when the loss is not finite
    optimizer: Literal["sgd", "adamw"] = "sgd"  # sgd: Nesterov momentum
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    weight_decay: Annotated[float, Ge(0)] = 5e-4
    schedule: Literal["cosine", "one_cycle", "constant"] = "cosine"
    warm_up: Annotated[float, Ge(0), Lt(1)] = 0.1  # share of all steps in which the rate rises
    augment: tuple[Literal["flip", "crop"], ...] = ()  # flip is wrong for digits and text

    @contextmanager
    @abstractmethod
    def learning(self, model: TorchModel, context: Context) -> Iterator[Loss]:
        """Give the loss of a batch while the training lasts."""

    def run(self, model: TorchModel, context: Context) -> TorchModel:
        with self.learning(model, context) as loss, threads(context.threads):  # sums depend on how many share them
            context.facts["losses"] = self._train(model.module, loss, context)
        return model

    def _train(self, module: nn.Module, loss: Loss, context: Context) -> list[float]:
        """All epochs that are not in the journal yet; mean loss of each."""
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        checkpoint = Checkpoint(module, self._optimizer(module), context.journal)
        losses = checkpoint.restore()
        for epoch in range(len(losses), self.epochs):
            losses.append(self._epoch(module, checkpoint.optimizer, loss, context, epoch))
            checkpoint.keep(losses)
            context.progress.say(f"{self._what(epoch)}, loss {losses[-1]:.4g}")
        module.zero_grad()
        module.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
        return [round(value, 6) for value in losses]

    def _epoch(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss, context: Context, epoch: int
    ) -> float:
        seed = int(np.random.SeedSequence((context.seed, epoch)).generate_state(1)[0])
        generator, steps = torch.Generator().manual_seed(seed), -(-len(context.train) // self.batch_size)
        batches = context.train.shuffled(self.batch_size, seed)
        total, module = 0.0, module.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # dropout and its like draw from here
            for step, batch in enumerate(context.progress.track(batches, self._what(epoch), steps)):
                self._set_rate(optimizer, (epoch + step / steps) / self.epochs)
                value = _learn(optimizer, loss, self._augmented(batch, generator))
                if not np.isfinite(value):
                    raise SqueezeError(self._diverged(epoch, step))
                total += value * len(batch)
        return total / len(context.train)

    def _optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if self.optimizer == "adamw":
            return torch.optim.AdamW(weights, self.learning_rate, weight_decay=self.weight_decay)
        nesterov = self.momentum > 0
        return torch.optim.SGD(
            weights, self.learning_rate, self.momentum, weight_decay=self.weight_decay, nesterov=nesterov
        )

    def _set_rate(self, optimizer: torch.optim.Optimizer, progress: float) -> None:
        factor = getattr(schedules, self.schedule)(progress, self.warm_up)
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate * factor

    def _augmented(self, batch: Batch, generator: torch.Generator) -> Batch:
        image = batch.image
        for name in self.augment:
            image = getattr(augment, name)(image, generator)
        inputs = {key: image if key == "image" else value for key, value in batch.inputs.items()}
        return Batch(inputs, batch.labels)

    def _what(self, epoch: int) -> str:
        return f"{self.name}: epoch {epoch + 1} of {self.epochs}"

    def _diverged(self, epoch: int, step: int) -> str:
        return (
            f"{self.name}: the loss is not finite in epoch {epoch + 1}, batch {step + 1}; "
            f"a learning_rate below {self.learning_rate} would do"
        )


def _learn(optimizer: torch.optim.Optimizer, loss: Loss, batch: Batch) -> float:
    optimizer.zero_grad()
    with torch.enable_grad():
        value = loss(batch)
        value.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return value.item()


def example_inputs(batch: Batch) -> dict[str, Any]:
    """A batch's inputs with images in the memory layout that convolutions on a CPU like."""
    return {
        name: value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value
        for name, value in batch.inputs.items()
    }
