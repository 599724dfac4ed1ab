"""How much each channel of a decoder's stream carries: one walk of the original sees what its readers are given."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from squeeze.blocks.inputs import chunk_inputs, head_inputs
from squeeze.blocks.visit import Visit
from squeeze.blocks.walk import Walk
from squeeze.blocks.watch import Weight, shared_inputs
from squeeze.models.language.language_model import LanguageModel
from squeeze.progress import Progress
from squeeze.surgery.hidden import Hidden, head_of


@torch.no_grad()
def channel_importance(model: LanguageModel, hidden: Hidden, walk: Walk, progress: Progress) -> Tensor:
    """``[hidden size]``: root mean squares of what goes into the readers of all blocks and into the head, summed up."""
    total, tokens = torch.zeros(hidden.size), max(walk.tokens.numel(), 1)
    for index in progress.track(range(model.blocks), "prune_width: hidden channels", model.blocks):
        with model.block(index) as block:
            visit, run = Visit(index, block, walk), partial(walk.block, index, walk.hidden[next(walk.chunks())])
            columns = [name for name, dim in hidden.blocks[index].items() if dim == 1]
            readers = [Weight(name) for name in columns if block.get_parameter(name).dim() == 2]
            firsts = [group[0] for group in shared_inputs(block, readers, run)]
            squares = torch.zeros(len(firsts), hidden.size)
            for part in walk.chunks():
                inputs = chunk_inputs(visit, walk, part, dict.fromkeys(firsts))
                squares += torch.stack([inputs[first][0].float().square().sum(0) for first in firsts])
            total += (squares / tokens).sqrt().sum(0)
            walk.through(index)
    with model.outside():
        head = head_of(model.skeleton)
        squares = torch.stack([head_inputs(walk, head, part).square().sum(0) for part in walk.chunks()]).sum(0)
    return total + (squares / tokens).sqrt()
