"""Sparsify a language model block by block, any other model layer by layer.

Later blocks and layers see the outputs of the sparse ones before them. Finished ones are on disk (a block's shard, a
layer in the journal), so a killed run resumes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from squeeze.algorithms.hessian import Hessian
from squeeze.algorithms.threads import threads
from squeeze.blocks.hessians import block_inputs
from squeeze.blocks.visit import BlockWeights, Visit, visit_blocks
from squeeze.blocks.walk import Walk
from squeeze.blocks.watch import Weight, shared_inputs
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.matrices import block_weights, matrices
from squeeze.models.language.memory import small_heap, trim_heap
from squeeze.models.language.rewriter import Rewriter
from squeeze.models.torch_layers import groups_of, layer_of
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context
from squeeze.passes.calibration import calibration_walk
from squeeze.passes.layer_inputs import EXAMPLES, inputs_of, outputs_of, piece_of, step_for, unfolded

LEAST_TOKENS = 64  # with fewer, an expert's Hessian says too little: it is pruned by magnitude
Solve = Callable[[str, Tensor, Tensor | None], Tensor]  # name, W [out, in], its Hessian or None; returns W with zeros
Facts = dict[str, Any]


def sparse_blocks(
    model: LanguageModel, names: set[str], solve: Solve, context: Context, what: str, calibrated: bool
) -> LanguageModel:
    """Sparsify the named weights; each block sees the outputs of the sparse blocks before it."""
    rewriter = Rewriter(model, context.model_folder())
    walk = calibration_walk(model, context) if calibrated else None

    def visit(index: int) -> None:
        prefix = model.skeleton.prefix(index)
        chosen = [name for name in block_weights(model.skeleton, index) if prefix + name in names]
        with model.block_to_change(index, chosen) as (block, _):
            weights = [weight for name in chosen for weight in matrices(model.skeleton, index, name)]
            facts = _sparse_block(Visit(index, block, walk), weights, lambda name, W, H: solve(prefix + name, W, H))
            new = {name: block.get_parameter(name).data for name in chosen}
            rewriter.put_block(index, new, {prefix + name: fact for name, fact in facts.items()})
        trim_heap()

    advance: list[tuple[Walk, BlockWeights]] = [(walk, rewriter)] if walk is not None else []
    with small_heap():
        context.facts["layers"] = visit_blocks(model.blocks, rewriter, visit, advance, context.progress, what)
    return rewriter.finish()


def _sparse_block(visit: Visit, weights: list[Weight], solve: Solve) -> Facts:
    """Sparsify weights of a block in place, by inputs from the dense block; returns facts by weight."""
    walk = visit.walk
    if walk is None or not weights:
        for weight in weights:
            weight.of(visit.block).copy_(solve(str(weight), weight.of(visit.block), None))
        return {}
    hidden, facts = walk.hidden[next(walk.chunks())], {}
    groups = shared_inputs(visit.block, weights, lambda: walk.block(visit.index, hidden))
    inputs = block_inputs(visit, groups)
    for group in groups:
        hessian = inputs.pop(group[0]).hessian  # each Hessian is freed when its group is done
        H = _matrix(hessian)
        for weight in group:
            weight.of(visit.block).copy_(solve(str(weight), weight.of(visit.block), H))
            facts[str(weight)] = _fact(hessian.tokens)
    return facts


def sparse_layers(
    model: TorchModel, names: list[str], solve: Solve, context: Context, what: str, calibrated: bool
) -> TorchModel:
    """The same for a network in memory; a convolution is one matrix per group of its channels."""
    modules, facts = [name.removesuffix(".weight") for name in names], {}
    outputs = outputs_of(model, modules) if calibrated else {}
    with threads(context.threads):  # sums depend on how many share them
        for index, name in enumerate(context.progress.track(modules, what, len(modules))):
            finished = context.finished(piece_of(index))
            if finished is None:
                finished = _sparse_layer(model, name, solve, context, outputs.get(name, []) if calibrated else None)
                context.keep(piece_of(index), finished)
            layer_of(model, name).weight.data.copy_(finished["weight"])
            if calibrated:
                facts[f"{name}.weight"] = _fact(int(finished["tokens"]))
    context.facts["layers"] = facts
    return model


def _sparse_layer(
    model: TorchModel, name: str, solve: Solve, context: Context, outputs: list[Tensor] | None
) -> dict[str, Tensor]:
    """The weight of one layer, and its number of tokens; ``outputs`` None: without data."""
    layer = layer_of(model, name)
    parts = channels_last(layer.weight.data).chunk(groups_of(layer))
    hessians = [] if outputs is None else _hessians(model, name, outputs, context)
    solved = [solve(f"{name}.weight", W, _matrix(hessians[i]) if hessians else None) for i, W in enumerate(parts)]
    tokens = torch.tensor(hessians[0].tokens if hessians else 0)
    return {"weight": channels_first(torch.cat(solved), layer.weight).contiguous(), "tokens": tokens}


def _matrix(hessian: Hessian) -> Tensor | None:
    return hessian.matrix() if hessian.tokens >= LEAST_TOKENS else None


def _fact(tokens: int) -> Facts:
    return {"tokens": tokens} | ({"fallback": "magnitude"} if tokens < LEAST_TOKENS else {})


def channels_last(weight: Tensor) -> Tensor:
    """``[out, places x in]`` of ``[out, in, *kernel]``: the input channels of one kernel place are adjacent."""
    return weight.flatten(2).transpose(1, 2).flatten(1) if weight.dim() > 2 else weight


def channels_first(matrix: Tensor, like: Tensor) -> Tensor:
    """The inverse: back to the shape of the layer's weight."""
    if like.dim() == 2:
        return matrix
    return matrix.reshape(len(like), -1, like.shape[1]).transpose(1, 2).reshape(like.shape)


def _hessians(model: TorchModel, name: str, outputs: list[Tensor], context: Context) -> list[Hessian]:
    """A Hessian per group of the layer's channels; with 0 tokens if the layer never runs."""
    layer = layer_of(model, name)
    columns = layer.weight[0].numel()
    channels = layer.weight.shape[1]
    hessians = [Hessian(columns) for _ in range(groups_of(layer))]
    step = step_for(layer, outputs[0], len(context.calibration)) if outputs else 1
    for batch in context.calibration.batches(EXAMPLES) if outputs else ():
        for value in inputs_of(model, layer, batch, len(outputs)):
            for part in unfolded(layer, value, step):
                for hessian, X in zip(hessians, part, strict=True):
                    hessian.add(X.reshape(len(X), channels, -1).transpose(1, 2).flatten(1))
    return hessians
