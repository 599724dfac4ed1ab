"""Fine-tuning: go on training with the labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from squeeze.models.base import Batch
from squeeze.models.resident import Resident
from squeeze.passes.base import Context
from squeeze.passes.distill.training import TrainingPass, require_targets
from squeeze.training.loop import Loss


class Finetune(TrainingPass):
    """Train on the plan's ``data.train``: wins back what pruning lost.

    Cross-entropy with its labels; of a language model, with the next token.
    """

    name: ClassVar[str] = "finetune"

    @contextmanager
    def learning(self, student: Resident, context: Context) -> Iterator[Loss]:
        require_targets(student, context.train, self.name)

        def loss(batch: Batch) -> Tensor:
            targets = student.targets(batch)
            assert targets is not None, "require_targets has looked"
            return functional.cross_entropy(student.logits(batch), targets)

        yield loss
