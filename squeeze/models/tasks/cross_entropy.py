"""What tasks learn whose rows are logits of classes, or of a vocabulary."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from squeeze.algorithms.distillation import Divergence, distillation_loss
from squeeze.models.tasks.base import Task


class CrossEntropyTask(Task):
    """Rows are logits and targets are numbers of classes."""

    divergences = ("forward", "reverse", "skewed")

    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(predictions, targets)

    def teaching_loss(
        self,
        student: Tensor,
        teacher: Tensor,
        targets: Tensor | None,
        temperature: float,
        alpha: float,
        divergence: Divergence = "forward",
    ) -> Tensor:
        return distillation_loss(student, teacher, targets, temperature, alpha, divergence)
