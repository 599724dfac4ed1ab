"""A decoder with fewer blocks: its config, which block each of its tensors was in, and its loss before it is made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from squeeze.algorithms.hessian import bf16_products
from squeeze.blocks.walk import Walk
from squeeze.errors import ModelError
from squeeze.models.configured import same_shapes
from squeeze.models.language.build import text_values
from squeeze.models.language.dense import write_dense
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.skeleton import Skeleton
from squeeze.surgery.replaced import Changed, changed_block

NONE: Changed = {}
COUNT = "num_hidden_layers"
PER_BLOCK = ("layer", "block")  # in the name of a config's list that has an entry for each block


def shallow_values(model: LanguageModel, kept: Sequence[int]) -> dict[str, Any]:
    """The config of the decoder with these blocks alone: their number, and lists with an entry for each block.

    Raises:
        ModelError: the config does not say how many blocks there are.
    """
    values = dict(model.skeleton.values)
    config = model.skeleton.config.get_text_config()
    if getattr(config, COUNT, None) != model.blocks:
        raise ModelError(f"config.json of model_type '{config.model_type}' does not name its blocks as {COUNT}")
    new = fewer_blocks(config, model.blocks, kept)
    return values | text_values(values, new)


def fewer_blocks(config: Any, count: int, kept: Sequence[int]) -> dict[str, Any]:
    """What a config of ``count`` blocks says otherwise of these alone."""
    lists = {
        name: [value[index] for index in kept]
        for name, value in config.to_dict().items()
        if isinstance(value, list) and len(value) == count and any(word in name for word in PER_BLOCK)
    }
    return {COUNT: len(kept)} | lists


def shallow(model: LanguageModel, kept: Sequence[int]) -> Skeleton:
    """The decoder with these blocks alone, without weights.

    Raises:
        ModelError: the blocks that its config makes are others.
    """
    skeleton = Skeleton.built(model.folder, shallow_values(model, kept))
    for new, old in enumerate(kept):
        if not same_shapes(skeleton.layers[new], model.skeleton.layers[old]):
            raise ModelError(f"{model.skeleton.prefix(old)[:-1]} cannot be block {new}: its config makes another one")
    return skeleton


def write_shallow(model: LanguageModel, kept: Sequence[int], folder: Path, changed: Changed = NONE) -> LanguageModel:
    """The decoder with these blocks alone, as a folder that stock transformers loads.

    Args:
        changed: Parameters that are others, by the block's old number.
    """
    skeleton = shallow(model, kept)
    old = {skeleton.prefix(new): model.skeleton.prefix(index) for new, index in enumerate(kept)}
    new_values = {model.skeleton.prefix(i) + name: value for i, some in changed.items() for name, value in some.items()}

    def tensor(name: str) -> torch.Tensor:
        prefix = next((prefix for prefix in old if name.startswith(prefix)), None)
        was = name if prefix is None else old[prefix] + name.removeprefix(prefix)
        return new_values[was] if was in new_values else model.tensor(was)

    write_dense(skeleton, tensor, model.folder, folder)
    (folder / "config.json").write_text(json.dumps(shallow_values(model, kept), indent=2, sort_keys=True) + "\n")
    return LanguageModel(folder)


class Resumed:
    """What went into blocks in the measurements before: one that skips the same blocks up to there goes on from it.

    Args:
        most: Values that may be kept.
    """

    def __init__(self, most: int) -> None:
        self.most, self.states = most, dict[tuple[frozenset[int], int], Tensor]()

    def put(self, skipped: frozenset[int], index: int, hidden: Tensor) -> None:
        """Keep what goes into a block; where room is short, what was longest of no use leaves."""
        if hidden.numel() > self.most:
            return
        key = _before(skipped, index), index
        self.states.pop(key, None)
        while (len(self.states) + 1) * hidden.numel() > self.most:
            del self.states[next(iter(self.states))]
        self.states[key] = hidden.clone()

    def latest(self, skipped: frozenset[int]) -> tuple[int, Tensor | None]:
        """The last block that was reached in the same way, and what went into it; nothing: the first."""
        on_the_way = sorted((key for key in self.states if key[0] == _before(skipped, key[1])), key=lambda key: key[1])
        for key in on_the_way:
            self.states[key] = self.states.pop(key)  # of use now: to the end
        return (on_the_way[-1][1], self.states[on_the_way[-1]]) if on_the_way else (0, None)


def _before(skipped: frozenset[int], index: int) -> frozenset[int]:
    return frozenset(each for each in skipped if each < index)


def loss_without(
    model: LanguageModel,
    start: Walk,
    skipped: frozenset[int],
    resumed: Resumed | None = None,
    changed: Changed = NONE,
) -> float:
    """Mean cross-entropy per token, in nats, of the model with some blocks skipped; one block in memory.

    Activations are float32, and factors of products bf16 where the CPU has units for that: losses are for comparing.

    Args:
        start: The embedded tokens, wide; left as they are.
        resumed: Of the same start, and of no changed blocks; what this measurement goes through is added.
        changed: Parameters that are others, by block.
    """
    walk, total, count = start.twin(), 0.0, 0
    first, hidden = resumed.latest(skipped) if resumed else (0, None)
    if hidden is not None:
        walk.hidden.copy_(hidden)
    with bf16_products():
        for index in range(first, model.blocks):
            if resumed:
                resumed.put(skipped, index, walk.hidden)
            if index not in skipped:
                with changed_block(model, index, changed):
                    walk.through(index)
        with model.outside(wide=True):
            for part, logits in walk.finish():
                targets = walk.tokens[part, 1:].flatten()
                total += float(functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets, reduction="sum"))
                count += len(targets)
    return total / count
