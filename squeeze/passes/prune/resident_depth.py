"""Depth pruning of a model in memory: an encoder, or a classifier with a config that names its blocks."""

from __future__ import annotations

import numpy as np

from squeeze.errors import EffectError
from squeeze.models.base import Batch
from squeeze.models.configured import ConfiguredBlocks
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context
from squeeze.passes.prune.losses import blocks_to_remove, kept_on_disk
from squeeze.surgery.resident_depth import distance, outputs_without, shallow_model

SAME = 1e-4  # between the model that is written and the one whose blocks were skipped
TOGETHER = 64  # examples of a batch


def prune_resident_depth(model: TorchModel, count: int, samples: int, context: Context, name: str) -> TorchModel:
    """Take out ``count`` blocks, each time the one without which the outputs move least; measured again after each."""
    model.require_floats(name)
    batches, blocks = _batches(context, samples), len(ConfiguredBlocks.of(model).layers)
    original = outputs_without(model, batches, frozenset())

    def measure(skipped: frozenset[int]) -> float:
        return distance(model, outputs_without(model, batches, skipped), original)

    loss = kept_on_disk(measure, context)
    removed = blocks_to_remove(loss, blocks, count, context, name)
    gone = frozenset(index for index, _ in removed)
    made = shallow_model(model, [index for index in range(blocks) if index not in gone])
    context.facts["loss"] = {"after": removed[-1][1], "examples": sum(map(len, batches))}
    after = distance(model, [made.predict(batch) for batch in batches], original)
    if abs(after - removed[-1][1]) > SAME * max(1.0, after):
        what = f"the model without its blocks is {after:.4f} away, the one that skips them {removed[-1][1]:.4f}"
        raise EffectError(f"{name}: {what}; blocks of this family depend on their place")
    return made


def _batches(context: Context, samples: int) -> list[Batch]:
    data = context.calibration
    return list(data.batches(TOGETHER, np.arange(len(data))[:samples]))
