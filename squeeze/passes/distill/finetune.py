"""Fine-tuning: go on training with the labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from torch import Tensor

from squeeze.data.base import Dataset
from squeeze.models.base import Batch, Model
from squeeze.models.resident import Resident
from squeeze.passes.base import Context
from squeeze.passes.distill.training import TrainingPass, require_targets
from squeeze.training.loop import Loss


class Finetune(TrainingPass):
    """Train on the plan's ``data.train``: wins back what pruning lost.

    What is learnt, the model's task says: cross-entropy with the labels, or with the next token.
    """

    name: ClassVar[str] = "finetune"

    def faults(self, model: Model) -> Iterator[str]:
        yield from super().faults(model)
        if not model.task.learns:
            what = f"{self.name} learns what data says is right; no data says it of {model.task.models}"
            yield f'{what}: distill learns from a teacher, and task = "classify" in the module makes it a classifier'

    def asks_original(self) -> bool:
        return False

    def examples(self, student: Resident, context: Context) -> Dataset:
        require_targets(student, context.train, self.name)
        return context.train

    @contextmanager
    def learning(self, student: Resident, context: Context) -> Iterator[Loss]:
        def loss(batch: Batch) -> Tensor:
            targets = student.targets(batch)
            assert targets is not None, "examples has looked"
            return student.task.loss(student.predictions(batch), targets)

        yield loss
