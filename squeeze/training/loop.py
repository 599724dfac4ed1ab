"""The training loop, for any model that can be resident: seeded, resumable at every epoch, same bytes each time.

What is learnt from a batch is the caller's business: a loss, given as a function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from squeeze.algorithms import augment, schedules
from squeeze.data.base import Dataset
from squeeze.errors import SqueezeError
from squeeze.models.base import Batch
from squeeze.progress import Progress
from squeeze.store import Journal
from squeeze.training.checkpoint import Checkpoint
from squeeze.training.options import TrainingOptions

Loss = Callable[[Batch], Tensor]  # mean over the predictions of a batch


@dataclass
class Training:
    """One training of one module.

    Args:
        name: Of the pass, for messages and progress.
        options: Length, step size, optimizer.
        data: Examples to learn from.
        seed: Decides order, augmentation and dropout.
        journal: Where the state after each epoch is kept; None: nowhere.
        micro_batch: Examples of a batch that go through the module at once.
    """

    name: str
    options: TrainingOptions
    data: Dataset
    seed: int
    progress: Progress
    journal: Journal | None = None
    micro_batch: Callable[[Batch], int] = len

    def run(self, module: nn.Module, loss: Loss) -> list[float]:
        """Train ``module`` in place for all epochs that are not in the journal yet.

        Returns:
            The mean loss of each epoch, in the loss's own unit.

        Raises:
            SqueezeError: the loss is not finite.
        """
        checkpoint = Checkpoint(module, self.options.new_optimizer(module), self.journal)
        losses = checkpoint.restore()
        for epoch in range(len(losses), self.options.epochs):
            losses.append(self._epoch(module, checkpoint.optimizer, loss, epoch))
            checkpoint.keep(losses)
            self.progress.say(f"{self._label(epoch)}, loss {losses[-1]:.4g}")
        module.zero_grad()
        module.eval()
        return [round(value, 6) for value in losses]

    def _epoch(self, module: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss, epoch: int) -> float:
        seed = int(np.random.SeedSequence((self.seed, epoch)).generate_state(1)[0])
        generator, steps = torch.Generator().manual_seed(seed), -(-len(self.data) // self.options.batch_size)
        batches = self.data.shuffled(self.options.batch_size, seed)
        total, module = 0.0, module.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # dropout and its like draw from here
            for step, batch in enumerate(self.progress.track(batches, self._label(epoch), steps)):
                self._set_rate(optimizer, (epoch + step / steps) / self.options.epochs)
                value = self._step(optimizer, loss, self._augmented(batch, generator))
                if not np.isfinite(value):
                    raise SqueezeError(self._diverged(epoch, step))
                total += value * len(batch)
        return total / len(self.data)

    def _step(self, optimizer: torch.optim.Optimizer, loss: Loss, batch: Batch) -> float:
        """One step down the gradient of the batch's mean loss; gradients of its parts are added."""
        optimizer.zero_grad()
        total = 0.0
        for part in parts(batch, self.micro_batch(batch)):
            with torch.enable_grad():
                value = loss(part) * (len(part) / len(batch))
                value.backward()  # type: ignore[no-untyped-call]
            total += value.item()
        optimizer.step()
        return total

    def _set_rate(self, optimizer: torch.optim.Optimizer, progress: float) -> None:
        factor = getattr(schedules, self.options.schedule)(progress, self.options.warm_up)
        for group in optimizer.param_groups:
            group["lr"] = self.options.learning_rate * factor

    def _augmented(self, batch: Batch, generator: torch.Generator) -> Batch:
        if not self.options.augment:
            return batch
        image = batch.image
        for name in self.options.augment:
            image = getattr(augment, name)(image, generator)
        return Batch({**batch.inputs, "image": image}, batch.labels)

    def _label(self, epoch: int) -> str:
        return f"{self.name}: epoch {epoch + 1} of {self.options.epochs}"

    def _diverged(self, epoch: int, step: int) -> str:
        return (
            f"{self.name}: the loss is not finite in epoch {epoch + 1}, batch {step + 1}; "
            f"a learning_rate below {self.options.learning_rate} would do"
        )


def parts(batch: Batch, size: int) -> Iterator[Batch]:
    """The examples of a batch, at most ``size`` at a time."""
    if size >= len(batch):
        yield batch
        return
    for start in range(0, len(batch), size):
        part = slice(start, start + size)
        labels = None if batch.labels is None else batch.labels[part]
        yield Batch({name: value[part] for name, value in batch.inputs.items()}, labels)
