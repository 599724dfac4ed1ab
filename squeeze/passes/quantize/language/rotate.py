"""Rotations of a language model's residual stream: the plumbing; the papers are in ``squeeze.algorithms.rotate``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from pydantic import NonNegativeInt
from torch import Tensor, nn

from squeeze.algorithms.rotate import Rotation, fold_norm, random_rotation, rotate_reader, rotate_writer
from squeeze.blocks.walk import Walk
from squeeze.blocks.watch import Weight, shared_inputs
from squeeze.errors import EffectError, ModelError
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.skeleton import Skeleton, fill
from squeeze.passes.base import Context
from squeeze.passes.quantize.language.block_edit import BlockEdit
from squeeze.passes.quantize.language.fold import Source, added_by, all_matrices, norm_offset, norms, norms_behind

TOKENS = (2, 32)  # random tokens on which the logits are compared
SAME = {torch.float32: 1e-3}  # norm of the logits' change, relative to theirs
SAME_NARROW = 0.1  # the same for weights rounded to 16 bits once more
ROWS = 8192  # rows of an embedding rotated at once


class Rotate(BlockEdit):
    """Spread a language model's outlier channels over all channels by a Hadamard rotation; a quantizer follows.

    QuaRot, Ashkboos et al., 2024, https://arxiv.org/abs/2404.00456. Norms are folded into the linears that read them,
    the rotation into embedding, linears and head, which are no longer tied: a stock model that computes the same.
    """

    name: ClassVar[str] = "rotate"

    seed: NonNegativeInt = 0
    """Of the random signs of the rotation."""

    def faults(self, model: LanguageModel) -> Iterator[str]:
        if wrong := _unfit(model.skeleton):
            yield f"{self.name}: {wrong}"

    def run(self, model: LanguageModel, context: Context) -> LanguageModel:
        if wrong := _unfit(model.skeleton):
            raise ModelError(f"{self.name}: {wrong}")
        rotated = super().run(model, context)
        was, now = (torch.cat([part for _, part in one.logits(_tokens(model))]) for one in (model, rotated))
        change = float((now - was).norm() / (was - was.mean()).norm())
        tolerance = SAME.get(model.tensor(_outside_names(model.skeleton)[0]).dtype, SAME_NARROW)
        if not change <= tolerance:
            raise EffectError(
                f"{self.name}: the rotated model is to say the same, but its logits changed by {change:.2g} "
                f"(up to {tolerance:g} is rounding); this structure cannot be rotated"
            )
        context.facts.pop("blocks")
        context.facts["rotation"] = f"order {_rotation(model, self.seed).signs.numel()}"
        context.facts["logits_changed"] = f"{change:.0e} of their norm"
        return rotated

    def walk(self, model: LanguageModel, context: Context) -> Walk:
        return model.walk(_tokens(model))

    def edit(self, model: LanguageModel, index: int, block: nn.Module, walk: Walk) -> dict[str, Any]:
        rotation = _rotation(model, self.seed)
        run = added_by(walk, index)
        groups = shared_inputs(block, all_matrices(block), run)
        sources = {weight: behind[0] for weight, behind in norms_behind(block, groups, run)[0].items()}
        reading = [g for g in groups if g[0] in sources and g[0].of(block).shape[1] == len(rotation.signs)]
        readers = [(sources[group[0]], group) for group in reading]
        _require_read(block, model.skeleton.prefix(index), {source.module for source, _ in readers}, rotation)
        for source, group in readers:
            _turn_readers(block, source, group, rotation)
        _turn_writers(block, {weight for _, group in readers for weight in group}, rotation)
        return {}

    def outside(self, model: LanguageModel) -> tuple[dict[str, Tensor], dict[str, Any]]:
        rotation = _rotation(model, self.seed)
        embedding, head, norm = _outside_names(model.skeleton)
        offset = norm_offset(model.skeleton.module.get_submodule(norm.rpartition(".")[0])) or 0.0
        scale = model.tensor(norm)
        old_head = model.tensor(head if head in model.skeleton.outside else embedding)
        new = {
            embedding: _by_rows(model.tensor(embedding), lambda rows: rotate_reader(rows, rotation)),
            head: _by_rows(old_head, lambda rows: rotate_reader(fold_norm(scale + offset, rows.float()), rotation)),
            norm: torch.full_like(scale, 1 - offset),
        }
        return new, {"tie_word_embeddings": False}


def _rotation(model: LanguageModel, seed: int) -> Rotation:
    return random_rotation(model.skeleton.hidden_size, seed)


def _tokens(model: LanguageModel) -> Tensor:
    return torch.randint(0, model.vocabulary, TOKENS, generator=torch.Generator().manual_seed(0))


def _outside_names(skeleton: Skeleton) -> tuple[str, str, str]:
    """Weights of the embedding, the head and the norm before it; the last is empty where there is not just one."""
    module: Any = skeleton.module
    names = {child: f"{name}.weight" for name, child in module.named_modules()}
    final = [f"{name}.weight" for name, _ in norms(module) if not name.startswith(f"{skeleton.layers_name}.")]
    norm = final[0] if final else ""
    return names[module.get_input_embeddings()], names[module.get_output_embeddings()], norm


def _unfit(skeleton: Skeleton) -> str | None:
    """What about this structure a rotation cannot pass, as far as it shows without weights."""
    known = _outside_names(skeleton)
    more = sorted(set(skeleton.outside) - {*known, known[1].replace(".weight", ".bias")})
    if more or not known[2]:
        what = f"'{more[0]}'" if more else "no norm behind the blocks"
        return f"needs embedding, blocks, one norm and a head, and nothing beside them; found {what}"
    experts = next((name for name, value in skeleton.layers[0].named_parameters() if value.dim() > 2), None)
    if experts:
        return f"experts in one tensor ({experts}) cannot be turned yet"
    hidden = skeleton.hidden_size
    for name, norm in norms(skeleton.module):
        if norm.get_parameter("weight").numel() == hidden and not _commutes(norm, random_rotation(hidden)):
            kind = type(norm).__name__
            return f"{name} ({kind}) subtracts the mean or adds a bias, which a rotation changes; RMSNorm would do"
    return None


def _commutes(norm: nn.Module, rotation: Rotation) -> bool:
    """Whether a norm of weight one, given turned inputs, gives turned outputs."""
    offset = norm_offset(norm) if norm._parameters.get("bias") is None else None
    if offset is None:
        return False
    weight = norm.get_parameter("weight").data
    x = torch.randn(4, 1, len(weight), generator=torch.Generator().manual_seed(0)).to(weight.dtype) + 1
    try:
        fill(norm, "weight", torch.full_like(weight, 1 - offset, device="cpu"))
        with torch.no_grad():
            rotated, same = rotation.turn(norm(x)).float(), norm(rotation.turn(x)).float()
    finally:
        fill(norm, "weight", weight)
    return bool((rotated - same).norm() < 0.1 * same.norm())


def _require_read(block: nn.Module, prefix: str, read: set[str], rotation: Rotation) -> None:
    """Every norm of the residual stream must be read by linears alone; what follows a linear cannot be folded."""
    hidden = len(rotation.signs)
    for name, norm in norms(block):
        if norm.get_parameter("weight").numel() == hidden and name not in read:
            raise ModelError(f"rotate: no linear reads {prefix}{name}; a norm behind a linear stops a rotation")


def _turn_readers(block: nn.Module, source: Source, group: list[Weight], rotation: Rotation) -> None:
    """Fold a norm into the linears that read it, then turn their inputs."""
    norm = block.get_parameter(f"{source.module}.weight").data
    for weight in group:
        folded = fold_norm(norm.float() + source.offset, weight.of(block).float())
        fill(block, weight.name, rotate_reader(folded, rotation).to(norm.dtype))
    fill(block, f"{source.module}.weight", torch.full_like(norm, 1 - source.offset))


def _turn_writers(block: nn.Module, readers: set[Weight], rotation: Rotation) -> None:
    """Turn the outputs of the linears that add to the residual stream."""
    for weight in all_matrices(block):
        value = weight.of(block)
        if weight in readers or len(value) != len(rotation.signs):
            continue
        fill(block, weight.name, rotate_writer(value, rotation))
        bias = weight.name.removesuffix("weight") + "bias"
        if bias in dict(block.named_parameters()):
            fill(block, bias, rotate_writer(block.get_parameter(bias).data, rotation))


def _by_rows(value: Tensor, change: Any) -> Tensor:
    """Change an embedding, some rows at a time; the dtype stays."""
    return torch.cat([change(rows).to(value.dtype) for rows in torch.split(value, ROWS)])
