"""The walk of weight quantizers through a network in memory: layer by layer, in the order in which they run.

Each layer's inputs are those that its quantized predecessors now give, so an error is met by all layers behind it.
Finished layers are in the journal: a killed run takes them from there.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.algorithms.drift import Drift
from squeeze.algorithms.hessian import Hessian
from squeeze.algorithms.rtn import require_finite
from squeeze.algorithms.threads import threads
from squeeze.blocks.hessians import Inputs
from squeeze.blocks.watch import Weight
from squeeze.errors import DataError, ModelError, SqueezeError
from squeeze.models.grid_file import GridEntry, from_tensors, to_tensors
from squeeze.models.torch_grid import put_grid
from squeeze.models.torch_layers import Layer, groups_of, layer_of
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context
from squeeze.passes.layer_inputs import EXAMPLES, inputs_of, outputs_of, piece_of, step_for, unfolded
from squeeze.passes.quantize.layers.norms import fold_norms
from squeeze.passes.quantize.scheme import Scheme
from squeeze.passes.quantize.work import BlockWork

if TYPE_CHECKING:
    from squeeze.passes.quantize.block_pass import BlockPass

FACTS = "facts"  # a key of the journal, beside the tensors of a layer


class Matrices(nn.Module):
    """A layer's weight as one matrix per group of its channels, ``[groups, out / groups, columns]``, in its memory."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        groups, weight = groups_of(layer), layer.weight.data
        self.weight = nn.Parameter(weight.view(groups, len(weight) // groups, -1), requires_grad=False)

    def weights(self) -> list[Weight]:
        return [Weight("weight", group) for group in range(len(self.weight))]


def quantize_layers(pass_: BlockPass[Any], model: TorchModel, context: Context) -> TorchModel:
    """Quantize the layers that a pass chooses; the model is changed in place.

    Raises:
        ModelError: weights are quantized already, or the pass has nothing to do.
        DataError: there is nothing to calibrate on.
    """
    if model.grid:
        raise ModelError(f"{pass_.name}: {len(model.grid)} weights are quantized already")
    if faults := list(pass_.option_faults(model, pass_.name)):
        raise ModelError(faults[0])
    if pass_.looks_at_data and not len(context.calibration):
        raise DataError(f"{pass_.name}: {context.calibration.name}: no calibration examples")
    with threads(context.threads):  # sums depend on how many share them
        return _Layers(pass_, model, context).walk()


class _Layers:
    """A network on its way to being quantized."""

    def __init__(self, pass_: BlockPass[Any], model: TorchModel, context: Context) -> None:
        self.pass_, self.model, self.context = pass_, model, context
        for name, weight in model.module.named_parameters():
            require_finite(weight.data, name)
            weight.data = weight.data.contiguous()
        fold_norms(model)
        self.schemes: dict[str, Scheme] = pass_.flat_schemes(model)
        names = [name.removesuffix(".weight") for name in self.schemes]
        outputs = outputs_of(model, names) if pass_.looks_at_data else {}
        examples = len(context.calibration) if pass_.looks_at_data else 0
        self.calls = {name: len(values) for name, values in outputs.items()}
        self.steps = {n: step_for(layer_of(model, n), values[0], examples) for n, values in outputs.items()}
        self.originals: dict[str, Tensor] = {}  # unquantized weights of the layers done so far

    def walk(self) -> TorchModel:
        """All layers in turn."""
        grids: dict[str, QuantizedTensor] = {}
        facts: dict[str, Any] = {}
        names = list(self.schemes)
        for index, name in enumerate(self.context.progress.track(names, self.pass_.name, len(names))):
            grids[name], facts[name] = self._finished(index, name) or self._quantized(index, name)
            if self.pass_.follows_original():
                self.originals[name] = self.model.module.get_parameter(name).data.clone()
            if self.pass_.advances():
                put_grid(self.model.module, name, grids[name])
        for name, grid in grids.items():
            put_grid(self.model.module, name, grid)
        self.context.facts["layers"] = {name: fact for name, fact in facts.items() if fact}
        self.context.facts["quantized"] = {f"int{self.pass_.bits}": [len(grids), len(grids)]}
        return TorchModel(self.model.module, self.model.source, self.model.inputs, grids)

    def _quantized(self, index: int, name: str) -> tuple[QuantizedTensor, dict[str, Any]]:
        """One layer, in the journal when this returns."""
        layer = layer_of(self.model, name.removesuffix(".weight"))
        weight = layer.weight.data.clone()
        matrices = Matrices(layer)
        work = BlockWork(index, matrices, schemes=dict.fromkeys(matrices.weights(), self.schemes[name]))
        try:
            inputs = self._inputs(name.removesuffix(".weight"), layer, work) if self.pass_.looks_at_data else {}
            grids = self.pass_.quantize_layer(work, inputs, self.context)
        except SqueezeError as error:
            raise type(error)(f"{name.removesuffix('.weight')}: {error}") from None
        layer.weight.data.copy_(weight)
        grid = QuantizedTensor.stack([grids[one] for one in work.schemes])
        facts = _together(list(work.facts.values()))
        encoded = torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8)
        self.context.keep(piece_of(index), {**to_tensors(name, grid), FACTS: encoded})
        return grid, facts

    def _inputs(self, name: str, layer: Layer, work: BlockWork) -> dict[Weight, Inputs]:
        """Hessians of what goes into each matrix, and how far that is from what the original gets."""
        follows = self.pass_.follows_original() and bool(self.originals)
        inputs_of_weight = {}
        for weight in work.schemes:
            matrix = weight.of(work.block)
            inputs_of_weight[weight] = Inputs(Hessian(matrix.shape[1]), Drift(matrix.clone()) if follows else None)
        calls, step = self.calls.get(name, 0), self.steps.get(name, 1)
        for batch in self.context.calibration.batches(EXAMPLES) if calls else ():
            current = inputs_of(self.model, layer, batch, calls)
            before = self._original_inputs(layer, batch, calls) if follows else current
            for now, was in zip(current, before, strict=True):
                for X, original in zip(unfolded(layer, now, step), unfolded(layer, was, step), strict=True):
                    _add(inputs_of_weight, X, original)
        return inputs_of_weight

    def _original_inputs(self, layer: Layer, batch: Any, calls: int) -> list[Tensor]:
        """The same with the weights that the layers before had."""
        now = {name: self.model.module.get_parameter(name).data for name in self.originals}
        try:
            for name, value in self.originals.items():
                self.model.module.get_parameter(name).data = value
            return inputs_of(self.model, layer, batch, calls)
        finally:
            for name, value in now.items():
                self.model.module.get_parameter(name).data = value

    def _finished(self, index: int, name: str) -> tuple[QuantizedTensor, dict[str, Any]] | None:
        """A layer that an earlier try finished."""
        tensors = self.context.finished(piece_of(index))
        if tensors is None:
            return None
        facts: dict[str, Any] = json.loads(bytes(tensors.pop(FACTS).numpy()))
        scheme, weight = self.schemes[name], self.model.module.get_parameter(name)
        shape = (len(weight), weight[0].numel())
        entry = GridEntry(shape, scheme.bits, scheme.group_size, scheme.symmetric, "float32")
        return from_tensors(entry, tensors, name), facts


def _add(inputs_of_weight: dict[Weight, Inputs], X: Tensor, original: Tensor) -> None:
    """Count inputs ``[groups, tokens, columns]``, and beside them those of the original."""
    for inputs, rows, before in zip(inputs_of_weight.values(), X, original, strict=True):
        inputs.hessian.add(rows)
        if inputs.drift is not None:
            inputs.drift.add(before, rows)


def _together(facts: list[dict[str, Any]]) -> dict[str, Any]:
    """Facts of a layer's matrices as one: losses are added, shares averaged, all else is the first's."""
    if not facts:
        return {}
    sums = {name: sum(fact[name] for fact in facts) for name in ("loss_rtn", "loss", "dead") if name in facts[0]}
    clipped = {"clipped": sum(fact["clipped"] for fact in facts) / len(facts)} if "clipped" in facts[0] else {}
    return facts[0] | sums | clipped
