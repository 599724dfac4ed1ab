"""A model in memory with fewer blocks: its config, its weights, and how far its outputs move before it is made."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from squeeze.errors import ModelError
from squeeze.models.base import Batch
from squeeze.models.configured import ConfiguredBlocks, filled, same_shapes
from squeeze.models.torch_model import TorchModel
from squeeze.surgery.depth import fewer_blocks


def shallow_blocks(blocks: ConfiguredBlocks, kept: Sequence[int]) -> ConfiguredBlocks:
    """The network with these blocks alone, without weights.

    Raises:
        ModelError: the blocks that its config makes are others.
    """
    made = blocks.resized(fewer_blocks(blocks.config, len(blocks.layers), kept))
    for new, old in enumerate(kept):
        if not same_shapes(made.layers[new], blocks.layers[old]):
            raise ModelError(f"{blocks.prefix(old)[:-1]} cannot be block {new}: its config makes another one")
    return made


def shallow_model(model: TorchModel, kept: Sequence[int]) -> TorchModel:
    """The model with these blocks alone."""
    blocks = ConfiguredBlocks.of(model)
    made, inside = shallow_blocks(blocks, kept), f"{blocks.layers_name}."
    weights = {name: value for name, value in model.module.state_dict().items() if not name.startswith(inside)}
    for new, old in enumerate(kept):
        own = blocks.layers[old].state_dict()
        weights |= {made.prefix(new) + name: value for name, value in own.items()}
    return filled(model, made, weights)


def outputs_without(model: TorchModel, batches: Sequence[Batch], skipped: frozenset[int]) -> list[Tensor]:
    """What the model gives for each batch, ``[n, width]``, with some blocks skipped."""
    blocks = ConfiguredBlocks.of(model)
    kept = [block for index, block in enumerate(blocks.layers) if index not in skipped]
    with blocks.with_blocks(kept):
        return [model.predict(batch) for batch in batches]


def distance(model: TorchModel, outputs: Sequence[Tensor], original: Sequence[Tensor]) -> float:
    """How far outputs are from the original's, as distillation counts it for the model's task; mean over examples.

    One minus the cosine for an encoder, the divergence of the softened classes for a classifier.
    """
    total, count = 0.0, 0
    with torch.no_grad():
        for now, was in zip(outputs, original, strict=True):
            loss = model.task.teaching_loss(now, was, None, model.task.temperature, 1.0)
            total, count = total + len(now) * float(loss), count + len(now)
    return total / count
