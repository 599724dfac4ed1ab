"""What tasks share whose models answer a batch in one call, with a row of numbers per example."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from squeeze.models.base import Batch, Model
from squeeze.models.tasks.base import Task

GOLDEN_EXAMPLES = 4
GOLDEN_BYTES = 500_000  # bytes of golden inputs; at least one example is taken


class RowsTask(Task):
    """A task whose examples are pictures, arrays or tokens, and whose labels lie in the batch."""

    def golden(self, model: Model) -> Batch:
        """Seeded noise of the right shape."""
        size_bytes = sum(4 * abs(math.prod(i.shape)) for i in model.inputs)
        examples = max(1, min(GOLDEN_EXAMPLES, GOLDEN_BYTES // size_bytes))
        if all(spec.dtype == "float32" and min(spec.shape, default=1) > 0 for spec in model.inputs):
            generator = np.random.default_rng(0)
            noise = {i.name: generator.standard_normal((examples, *i.shape)).astype(i.dtype) for i in model.inputs}
            return Batch({name: torch.from_numpy(array) for name, array in noise.items()})
        seeded = torch.Generator().manual_seed(0)
        return Batch({spec.name: spec.noise(examples, seeded) for spec in model.inputs})

    def targets(self, batch: Batch) -> Tensor | None:
        return batch.labels
