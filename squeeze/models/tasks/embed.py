"""Give each example a place in space, so that like ones lie together: sentence encoders."""

from __future__ import annotations

from torch import Tensor

from squeeze.algorithms.distillation import embedding_loss
from squeeze.models.tasks.rows import RowsTask


class Embed(RowsTask):
    """One embedding per example, ``[n, width]``. What is right, no label says: it learns from a teacher."""

    name = "embed"
    models = "encoders"
    metrics = ("cosine", "size_bytes", "parameters", "macs", "latency")
    learns = False

    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        raise AssertionError("an encoder has no targets; the passes ask `learns`")

    def teaching_loss(
        self, student: Tensor, teacher: Tensor, targets: Tensor | None, temperature: float, alpha: float
    ) -> Tensor:
        return embedding_loss(student, teacher)
