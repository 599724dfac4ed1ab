"""One block for a narrower residual stream: what reads the stream, what writes into it, and the norms on the way.

The block's own code computes with narrower tensors in place of its own, so that its norms look at the channels that
stay. Beside it the original's block runs on the original's stream:

- a matrix that reads the stream (q, k, v; gate, up) is solved to give on what it is given now what it gave then;
- one that writes into it (o_proj, down_proj) loses the rows of the channels that leave, is cut if its inputs are units
  of a part, and makes up for what the stream misses, halfway, as :mod:`squeeze.surgery.narrow` has it;
- a norm behind a writer (Gemma's) is scaled channel by channel to give what it gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from squeeze.algorithms.drift import Drift, moved
from squeeze.algorithms.factor import Factor, factorize
from squeeze.algorithms.hessian import Hessian
from squeeze.algorithms.hidden_channels import Means, MeansOf, cut_reader, reader_loss, refit_reader
from squeeze.blocks.inputs import Inputs, chunk_inputs
from squeeze.blocks.layout import layout_of
from squeeze.blocks.norms import norms_behind, watched_output, weight_offset
from squeeze.blocks.visit import Visit
from squeeze.blocks.watch import Weight
from squeeze.errors import ModelError
from squeeze.surgery.narrow import MADE_UP_FOR, Solver, narrow_reader
from squeeze.surgery.widths import Cut, Part, Units


class HiddenBlock:
    """A block while its stream gets narrower.

    Args:
        visit: The block with narrower tensors, which are written to, on the narrow stream. Gets the facts.
        original: The block as it was, on the original's stream; None: nothing is made up for.
        dims: Of each tensor that got narrower, the dimension.
        norms: Submodules that look at the stream's channels and hold no matrix.
        kept: ``[kept]``, the channels that stay.
    """

    def __init__(
        self,
        visit: Visit,
        original: Visit | None,
        dims: Mapping[str, int],
        norms: list[str],
        kept: Tensor,
        solver: Solver,
    ) -> None:
        assert visit.walk is not None
        self.visit, self.original, self.dims, self.norms = visit, original, dims, norms
        self.kept, self.solver, self.block, self.walk = kept, solver, visit.block, visit.walk

    @torch.no_grad()
    def narrow(self, cuts: Mapping[Part, list[Cut]], units: Units, kept_bytes: int) -> dict[str, Tensor]:
        """Every tensor of the block that may have changed, by name.

        Args:
            cuts: Of other parts that are cut at the same time, and how many units of each stay.
            kept_bytes: That may be kept of what goes into its last linears, and the original's.
        """
        hidden = self.walk.hidden[next(self.walk.chunks())]
        run = partial(self.walk.block, self.visit.index, hidden)
        matrices = [Weight(name) for name, value in self.block.named_parameters() if value.dim() == 2]
        layout = layout_of(self.visit, matrices)
        for visit in filter(None, (self.visit, self.original)):
            visit.keep(layout.ends, kept_bytes // 2)
        behind = norms_behind(self.block, self.norms, matrices, run)
        part_of = {own[0].name: part for part, own in cuts.items()}
        cut: dict[str, Tensor] = {}
        for group in layout.groups:
            first = group[0]
            if {self.dims.get(weight.name) for weight in group} == {1}:
                self._solve_readers(group)
            elif first.name in part_of:
                part = part_of[first.name]
                kept = self._cut_units(first, layout.places.get(first), cuts[part], units[part])
                cut |= {c.name: c.of(cut.get(c.name, self.block.get_parameter(c.name).data), kept) for c in cuts[part]}
            elif self.dims.get(first.name) == 0:
                self._move_writer(first, layout.places.get(first))
            for norm in behind.get(first, []):
                self._scale_norm(norm)
        return {name: cut.get(name, value.data) for name, value in self.block.named_parameters()}

    def _solve_readers(self, group: list[Weight]) -> None:
        """Let each give what it gave, by its columns for the channels that stay, and its bias."""
        if self.original is None:
            return
        means, energies = self._means(self.original, group)
        factors: dict[bool, tuple[Means, Factor]] = {}
        for weight in group:
            W, bias = weight.of(self.original.block).float(), _bias(self.block, weight)
            centred = bias is not None
            if centred not in factors:
                own = means.centred() if centred else means
                factors[centred] = own, factorize(own.H, self.solver.damping)
            own, factor = factors[centred]
            cut, new = cut_reader(W, self.kept, means.C, means.H), refit_reader(W, self.kept, own.C, own.H, factor)
            weight.of(self.block).copy_(new)
            losses = {"loss_cut": reader_loss(cut, W, means.C, means.H, energies[weight])}
            losses["loss"] = reader_loss(new, W, means.C, means.H, energies[weight])
            if bias is not None:
                bias.add_(left := W @ means.before - new @ means.now)
                losses["loss"] = max(0.0, losses["loss"] - float(left.square().sum()))
            self.visit.facts[str(weight)] = {"tokens": means.tokens} | losses

    def _means(self, original: Visit, group: list[Weight]) -> tuple[Means, dict[Weight, float]]:
        """Of both inputs; and the squares of each weight's outputs as they were, per token."""
        first, energies = group[0], dict.fromkeys(group, 0.0)
        weights = {weight: weight.of(original.block).float().t() for weight in group}
        means = MeansOf(first.of(original.block).shape[1], len(self.kept))
        for part in self.walk.chunks():
            (X, _), (Xo, _) = self._inputs(self.visit, first, None, part), self._inputs(original, first, None, part)
            _require_as_many(first, X, Xo)
            means.add(X, Xo)
            for weight, W in weights.items():
                energies[weight] += float((Xo.float() @ W).square().sum())
        result = means.result()
        return result, {weight: energy / max(result.tokens, 1) for weight, energy in energies.items()}

    def _cut_units(self, weight: Weight, place: str | None, cuts: list[Cut], count: int) -> Tensor:
        """Which units of a part stay; the columns of the others become zero."""
        H, pull, tokens = self._hessian(weight, place)
        size = cuts[0].pieces[0][1]
        units, facts = narrow_reader(weight.of(self.block), H, pull, tokens, size, count, self.solver)
        self.visit.facts[str(weight)] = facts
        return units

    def _move_writer(self, weight: Weight, place: str | None) -> None:
        """Let it make up for half of what the stream misses."""
        if self.original is None:
            return
        H, pull, _ = self._hessian(weight, place)
        assert pull is not None
        W = weight.of(self.block)
        W.copy_(moved(W, pull, factorize(H, self.solver.damping)))

    def _hessian(self, weight: Weight, place: str | None) -> tuple[Tensor, Tensor | None, int]:
        """Of what goes into a weight now; what its outputs miss times that; tokens."""
        W = weight.of(self.block)
        hessian, drift = Hessian(W.shape[1]), Drift(W, stream=place is not None)
        for part in self.walk.chunks():
            X, stream = self._inputs(self.visit, weight, place, part)
            hessian.add(X)
            if self.original is None:
                continue
            Xo, before = self._inputs(self.original, weight, place, part)
            _require_as_many(weight, X, Xo)
            if stream is not None and before is not None:
                drift.add_stream(before[:, self.kept].float() - stream.float(), X)
            else:
                drift.add(Xo, X)
        pull = None if self.original is None else MADE_UP_FOR * drift.pull()
        return hessian.matrix(), pull, hessian.tokens

    def _scale_norm(self, name: str) -> None:
        """Let each channel of a norm behind a writer give what it gave, as near as one factor makes it."""
        if self.original is None:
            return
        norm = self.block.get_submodule(name)
        products, squares = torch.zeros(len(self.kept)), torch.zeros(len(self.kept))
        for part in self.walk.chunks():
            now, before = (self._outputs(visit, name, part) for visit in (self.visit, self.original))
            products += (before[:, self.kept] * now).sum(0)
            squares += now.square().sum(0)
        offset, weight = weight_offset(norm), norm.get_parameter("weight").data
        weight.copy_((weight.float() + offset) * products / squares.clamp_min(1e-30) - offset)

    def _inputs(self, visit: Visit, weight: Weight, place: str | None, part: slice) -> Inputs:
        assert visit.walk is not None
        inputs = chunk_inputs(visit, visit.walk, part, {weight: place})
        if weight not in inputs:
            raise ModelError(f"{weight} is given no tokens; parts: [intermediate] would do")
        return inputs[weight]

    def _outputs(self, visit: Visit, name: str, part: slice) -> Tensor:
        """float32 ``[tokens, channels]`` of a submodule."""
        assert visit.walk is not None
        outputs: list[Tensor] = []
        with watched_output(visit.block.get_submodule(name), outputs.append):
            visit.walk.block(visit.index, visit.walk.hidden[part])
        return outputs[0].flatten(0, -2).float()


def _bias(block: nn.Module, weight: Weight) -> Tensor | None:
    """The bias beside a weight, to be written to."""
    name = f"{weight.name.removesuffix('weight')}bias"
    return dict(block.named_parameters())[name].data if name in dict(block.named_parameters()) else None


def _require_as_many(weight: Weight, X: Tensor, Xo: Tensor) -> None:
    if len(X) != len(Xo):
        raise ModelError(f"{weight} is not given every token; parts: [intermediate] would do")
