"""Fine-tuning: go on training with the labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from squeeze.models.base import Batch
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context
from squeeze.passes.distill.training import Loss, TrainingPass, example_inputs


class Finetune(TrainingPass):
    """Train on the plan's ``data.train``, cross-entropy with its labels: wins back what pruning lost."""

    name: ClassVar[str] = "finetune"

    @contextmanager
    def learning(self, model: TorchModel, context: Context) -> Iterator[Loss]:
        context.train.require_labels()

        def loss(batch: Batch) -> Tensor:
            assert batch.labels is not None, "require_labels has looked"
            return functional.cross_entropy(model.forward(example_inputs(batch)), batch.labels)

        yield loss
