"""Convolutions in two parts: the plumbing; the paper is ``squeeze.algorithms.separable``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from squeeze.algorithms.separable import Moments, Pair, fit_pair
from squeeze.algorithms.threads import threads
from squeeze.errors import DataError, EffectError, ModelError, SqueezeError
from squeeze.models.base import Model
from squeeze.models.options import Patterns
from squeeze.models.structure import CONV_OPTIONS
from squeeze.models.torch_layers import layer_names
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context, Pass, Preview
from squeeze.passes.layer_inputs import batches, inputs_of, outputs_of, step_for, unfolded
from squeeze.passes.prune.selection import Selection

PARTS = ("depthwise", "pointwise")


class Separable(Pass[TorchModel, TorchModel]):
    """Make two of each k x k convolution: a depthwise one, then a pointwise one of 1 x 1, as in MobileNet.

    Howard et al., 2017, https://arxiv.org/abs/1704.04861, from trained weights: layer after layer, the two are fitted
    by least squares to what the convolution gave, on what the layers that were changed before it now give. Much is lost
    all the same, so a pass that trains belongs behind it.
    """

    name: ClassVar[str] = "separable"
    needs: ClassVar[frozenset[str]] = frozenset({"calibration"})
    refuses: ClassVar[frozenset[str]] = frozenset({"quantized"})
    promises: ClassVar[frozenset[str]] = frozenset({"fewer_parameters", "fewer_macs", "fewer_bytes"})

    multiplier: PositiveInt = 1
    """Depthwise kernels for each input channel: 2 loses less and costs twice as much. Layers that would not become
    smaller stay as they are, and are named in the row."""
    rounds: PositiveInt = 10
    """In which both parts are solved in turn, from the nearest weights on; the first few matter most."""
    include: Patterns = ("*",)
    """Convolutions to change, by name: those of one group and more than one place."""
    exclude: Patterns = ()
    """Convolutions that stay; the first one, which sees the input, has little to win."""

    def promised(self, before: Model) -> frozenset[str]:
        return self.promises if before.macs() is not None else self.promises - {"fewer_macs"}

    def faults(self, model: TorchModel) -> Iterator[str]:
        candidates, (chosen, skipped) = _candidates(model), self._chosen(model)
        if not candidates:
            yield f"{self.name}: the model has no convolution of one group and more than 1 x 1 places; leave it out"
            return
        wrong = list(Selection(self.include, self.exclude).faults(candidates))
        yield from (f"{self.name}: {line}" for line in wrong)
        if not wrong and not chosen:
            reason = next(iter(skipped.values()))
            smaller = " or a smaller multiplier" if self.multiplier > 1 else ""
            yield f"{self.name}: nothing is left to change: {reason}; a wider include{smaller} would do"
        elif not wrong:
            yield from self._fault_of_the_code(model, chosen)

    def preview(self, model: TorchModel, before: Preview) -> Preview:
        chosen, _ = self._chosen(model)
        for name in chosen:
            model.module.set_submodule(name, _empty_pair(_convolution(model, name), self.multiplier))
        model.module.eval()
        return Preview(tuple(chosen), model.parameters(), model.nbytes(), model.macs(), before.exact)

    def run(self, model: TorchModel, context: Context) -> TorchModel:
        """Change the model in place; finished layers are in the journal."""
        model.require_floats(self.name)
        chosen, skipped = self._chosen(model)
        if not chosen:
            raise EffectError(next(self.faults(model)))
        if not len(context.calibration):
            raise DataError(f"{self.name}: {context.calibration.name}: no calibration examples")
        with threads(context.threads):  # sums depend on how many share them
            errors = self._walk(model, chosen, context)
        context.facts["separated"] = [len(chosen), len(chosen) + len(skipped)]
        context.facts["output_error"] = errors
        context.facts["skipped"] = skipped
        return model

    def check_effect(self, before: Model, after: Model, facts: dict[str, Any]) -> Sequence[str]:
        worse = [name for name, (nearest, fitted) in facts["output_error"].items() if not fitted <= nearest]
        return [f"fitted {name} to a larger error than the nearest weights have" for name in worse]

    def _walk(self, model: TorchModel, chosen: list[str], context: Context) -> dict[str, list[float]]:
        """One layer after the other; the share of its outputs' variance that each misses, by the nearest weights and
        as fitted."""
        original, errors = model.copied(), {}
        outputs = outputs_of(model, chosen)
        for index, name in enumerate(context.progress.track(chosen, self.name, len(chosen))):
            layer, calls = _convolution(model, name), outputs.get(name, [])
            pair = _finished(context, index)
            if pair is None:
                if not calls:
                    raise ModelError(f"{name} never runs, so there is nothing to fit it to; exclude it")
                step = step_for(layer, calls[0], len(context.calibration))
                moments = _moments(model, original, name, len(calls), step, context)
                pair = self._fitted(name, layer, moments)
                _keep(context, index, pair)
            model.module.set_submodule(name, _filled_pair(layer, pair))
            errors[name] = [pair.errors[0], pair.errors[-1]]
        return errors

    def _fitted(self, name: str, layer: nn.Conv2d, moments: Moments) -> Pair:
        try:
            return fit_pair(layer.weight.data.flatten(2).float(), moments, self.multiplier, self.rounds)
        except SqueezeError as error:
            raise ModelError(f"{name}: {error}") from None

    def _chosen(self, model: TorchModel) -> tuple[list[str], dict[str, str]]:
        """Names of the layers that are changed, in the order in which they run; why each other candidate stays."""
        chosen, skipped, selection = [], {}, Selection(self.include, self.exclude)
        for name in _candidates(model):
            reason = selection.refusal([name]) or _too_large(name, _convolution(model, name), self.multiplier)
            if reason is None:
                chosen.append(name)
            else:
                skipped[name] = reason
        return chosen, skipped

    def _fault_of_the_code(self, model: TorchModel, chosen: list[str]) -> Iterator[str]:
        """A module's own code may ask more of a convolution than to be called."""
        copy = model.copied()
        for name in chosen:
            copy.module.set_submodule(name, _empty_pair(_convolution(copy, name), self.multiplier).to("meta"))
        try:
            copy.module.to("meta").eval()
            copy.predict(copy.example())
        except ModelError as error:
            yield f"{self.name}: with two convolutions for one, {error}; exclude the layers whose code reads them"


def _candidates(model: TorchModel) -> list[str]:
    """Names of convolutions of one group with more than one place, in the order in which they run."""
    return [name for name in layer_names(model) if _separates(model.module.get_submodule(name))]


def _separates(layer: nn.Module) -> bool:
    return type(layer) is nn.Conv2d and layer.groups == 1 and layer.weight[0, 0].numel() > 1


def _convolution(model: TorchModel, name: str) -> nn.Conv2d:
    layer = model.module.get_submodule(name)
    assert isinstance(layer, nn.Conv2d)
    return layer


def _too_large(name: str, layer: nn.Conv2d, multiplier: int) -> str | None:
    """Why two convolutions would be no gain; None: they would."""
    places, was = layer.weight[0, 0].numel(), sum(value.numel() for value in layer.parameters())
    now = multiplier * layer.in_channels * (places + layer.out_channels) + layer.out_channels
    return f"{name} would have {now:,} parameters and has {was:,}" if now >= was else None


def _empty_pair(layer: nn.Conv2d, multiplier: int) -> nn.Sequential:
    """The two convolutions, as yet without their weights; the second one's bias carries the outputs' means."""
    inputs, hidden = layer.in_channels, layer.in_channels * multiplier
    where: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    same: dict[str, Any] = {name: getattr(layer, name) for name in CONV_OPTIONS}
    depthwise = nn.Conv2d(inputs, hidden, groups=inputs, bias=False, **same, **where)
    pointwise = nn.Conv2d(hidden, layer.out_channels, 1, **where)
    return nn.Sequential(OrderedDict(zip(PARTS, (depthwise, pointwise), strict=True))).train(layer.training)


def _filled_pair(layer: nn.Conv2d, pair: Pair) -> nn.Sequential:
    new_pair = _empty_pair(layer, pair.depthwise.shape[1])
    tensors = {"depthwise.weight": pair.depthwise, "pointwise.weight": pair.pointwise, "pointwise.bias": pair.bias}
    with torch.no_grad():
        for name, value in tensors.items():
            parameter = new_pair.get_parameter(name)
            parameter.copy_(value.reshape(parameter.shape))
    return new_pair


def _moments(model: TorchModel, original: TorchModel, name: str, calls: int, step: int, context: Context) -> Moments:
    """Over the calibration examples: what the layer is given now, and what it gave in the original."""
    layer, before = _convolution(model, name), _convolution(original, name)
    W = before.weight.data.flatten(1).float()
    moments = Moments(W.shape[1], W.shape[0])
    for batch in batches(context.calibration):
        now, was = inputs_of(model, layer, batch, calls), inputs_of(original, before, batch, calls)
        for value, first in zip(now, was, strict=True):
            for X, aimed in zip(unfolded(layer, value, step), unfolded(before, first, step), strict=True):
                moments.add(X[0].float(), _outputs(aimed[0].float(), W, before.bias))
    return moments


def _outputs(X: Tensor, W: Tensor, bias: Tensor | None) -> Tensor:
    outputs = X @ W.t()
    return outputs if bias is None else outputs + bias.data.float()


def _finished(context: Context, index: int) -> Pair | None:
    """A layer that an earlier try finished."""
    tensors = context.journal.get(_piece(index)) if context.journal is not None else None
    if tensors is None:
        return None
    return Pair(tensors["depthwise"], tensors["pointwise"], tensors["bias"], tensors["errors"].tolist())


def _keep(context: Context, index: int, pair: Pair) -> None:
    if context.journal is not None:
        errors = torch.tensor(pair.errors, dtype=torch.float64)
        tensors = {"depthwise": pair.depthwise, "pointwise": pair.pointwise, "bias": pair.bias, "errors": errors}
        context.journal.put(_piece(index), {name: value.contiguous() for name, value in tensors.items()})


def _piece(index: int) -> str:
    return f"layer-{index:05d}"
