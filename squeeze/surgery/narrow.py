"""One block made narrower: which units stay, what the weights that read them become, and the tensors that are cut.

While it is worked on, the block keeps its shapes: columns of units that leave are zero, which computes the same. So
what goes into its MLP is what the narrower attention gives, and the aim is what the original's block gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from squeeze.algorithms.drift import moved
from squeeze.algorithms.factor import factorize
from squeeze.algorithms.hessian import hessian_loss
from squeeze.algorithms.osscar import channels, kept_units, refit
from squeeze.blocks.hessians import block_inputs
from squeeze.blocks.layout import layout_of
from squeeze.blocks.visit import Visit
from squeeze.blocks.walk import Walk
from squeeze.blocks.watch import Weight
from squeeze.errors import ModelError
from squeeze.surgery.widths import Cut, Part, Units

# share of what the stream misses that a block is fitted to; the rest is left as the calibration text's own
MADE_UP_FOR = 0.5
SAME = 1e-3  # of what a block adds, in float32
SAME_NARROW = 5e-2  # in half precision: far above its rounding, far below what a wrong cut gives


@dataclass(frozen=True)
class Solver:
    """How units are chosen and made up for.

    Args:
        compensate: Off, the weights that stay are left as they are.
    """

    damping: float
    rounds: int
    compensate: bool


def narrow_block(
    visit: Visit, cuts: Mapping[Part, list[Cut]], units: Units, solver: Solver, kept_bytes: int
) -> dict[str, Tensor]:
    """Cut a block's parts, in the order in which they run; gives its new tensors by name.

    Args:
        visit: Its parameters may be written to. Gets the facts, by matrix: units, and the squared error per token that
            cutting alone leaves of the outputs (``loss_cut``), and with the others making up (``loss``).
        kept_bytes: That may be kept of what goes into its last linears.
    """
    readers = {Weight(own[0].name): part for part, own in cuts.items()}
    layout = layout_of(visit, list(readers))
    visit.keep(layout.ends, kept_bytes)
    places = None if visit.original is None else layout.places
    new: dict[str, Tensor] = {}
    for (reader,) in layout.groups:
        part = readers[reader]
        inputs = block_inputs(visit, [[reader]], places)[reader]
        H, tokens = inputs.hessian.matrix(), inputs.hessian.tokens
        pull = MADE_UP_FOR * inputs.drift.pull() if inputs.drift is not None else None
        inputs.drift = None
        size = cuts[part][0].pieces[0][1]
        kept, facts = narrow_reader(reader.of(visit.block), H, pull, tokens, size, units[part], solver)
        visit.settle([reader])
        visit.facts[str(reader)] = facts
        for cut in cuts[part]:
            value = new.get(cut.name, visit.block.get_parameter(cut.name).data)
            new[cut.name] = cut.of(value, kept)
    return new


def narrow_reader(
    W: Tensor, H: Tensor, pull: Tensor | None, tokens: int, size: int, count: int, solver: Solver
) -> tuple[Tensor, dict[str, Any]]:
    """Choose the units that stay and let their columns make up; the others become zero in place. Gives facts, too.

    Args:
        W: ``[out, in]``, written to.
        H: ``X X^T`` of its inputs, ``[in, in]``.
        pull: What its outputs miss beside, ``R X^T``, ``[out, in]``; None: nothing.
        tokens: That ``H`` and ``pull`` are the means over.
        size: Channels of a unit.
        count: Units that stay.
    """
    factor = factorize(H, solver.damping)
    target = W.float() if pull is None else moved(W, pull, factor)
    units = kept_units(target, factor, size, count, solver.rounds)
    del factor  # as large as the Hessian: not beside what comes next
    kept, cut = channels(units, size), torch.zeros_like(target)
    cut[:, kept] = W[:, kept].float()
    facts: dict[str, Any] = {"units": [W.shape[1] // size, count], "tokens": tokens}
    facts["loss_cut"] = float(hessian_loss(cut - target, H).sum())
    if solver.compensate:
        cut[:, kept] = refit(W, H, pull, kept, solver.damping)
    facts["loss"] = float(hessian_loss(cut - target, H).sum())
    W.copy_(cut)
    return units, facts


def require_same(visit: Visit, narrow: Walk) -> None:
    """The narrow block must give what the block with zeros in its place gives.

    Args:
        narrow: The same activations, for the narrow blocks, whose weights are there.

    Raises:
        ModelError: it does not: the family mixes its channels in a way that is not known here.
    """
    walk = visit.walk
    assert walk is not None
    hidden = walk.hidden[next(walk.chunks())]
    zeroed, cut = walk.block(visit.index, hidden).float(), narrow.block(visit.index, hidden).float()
    most = SAME if hidden.dtype == torch.float32 else SAME_NARROW
    require_near(cut, zeroed, hidden.float(), most, type(visit.block).__name__)


def require_near(cut: Tensor, zeroed: Tensor, hidden: Tensor, most: float, kind: str) -> None:
    """What a narrow block gives, and what one with zeros does, may differ by a share of what a block adds."""
    if (zeroed - cut).norm() > most * (zeroed - hidden).norm():
        what = f"{kind} computes otherwise with fewer units than with zeros in their place"
        raise ModelError(f"{what}; it stays as it is")
