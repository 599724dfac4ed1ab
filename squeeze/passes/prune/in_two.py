"""A layer as two, fitted by least squares: the walk that ``separable`` and ``low_rank`` share.

Layer after layer, the two are fitted to what the layer gave in the original, on what the layers that were changed
before it now give. Finished layers are in the journal, so that a killed run goes on behind them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from squeeze.algorithms.moments import Moments
from squeeze.algorithms.threads import threads
from squeeze.errors import DataError, EffectError, ModelError, SqueezeError
from squeeze.models.base import Model
from squeeze.models.options import Patterns
from squeeze.models.torch_layers import layer_names
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context, Pass, Preview
from squeeze.passes.layer_inputs import EXAMPLES, inputs_of, outputs_of, piece_of, step_for, unfolded
from squeeze.passes.prune.selection import Selection

Sizes = Mapping[str, int]  # by layer: how wide its two parts are between each other


@dataclass(frozen=True)
class Fitted:
    """Two layers in place of one.

    Args:
        tensors: By their names in the pair; of any shape with as many values.
        errors: Share of the outputs' variance that is missed: by the nearest weights first, as fitted last.
    """

    tensors: Mapping[str, Tensor]
    errors: list[float]


class InTwo(Pass[TorchModel, TorchModel]):
    """Makes two layers of each one that is chosen."""

    needs: ClassVar[frozenset[str]] = frozenset({"calibration"})
    refuses: ClassVar[frozenset[str]] = frozenset({"quantized"})
    promises: ClassVar[frozenset[str]] = frozenset({"fewer_parameters", "fewer_macs", "fewer_bytes"})
    exact: ClassVar[bool] = True
    """Whether sizes are known before any data was seen."""
    candidates: ClassVar[str]
    """What the layers are that it can change."""

    include: Patterns = ("*",)
    """Layers to change, by name; the others of their kind stay as they are."""
    exclude: Patterns = ()
    """Layers that stay as they are: the first one, which sees the input, has little to win."""

    @abstractmethod
    def divides(self, layer: nn.Module) -> bool:
        """Whether it could be changed at all."""

    @abstractmethod
    def too_large(self, name: str, layer: Any) -> str | None:
        """Why two layers would be no gain; None: they would."""

    @abstractmethod
    def likely_sizes(self, model: TorchModel, chosen: list[str]) -> Sizes:
        """Before any data was seen; a layer that is left out stays whole."""

    @abstractmethod
    def sizes(self, model: TorchModel, chosen: list[str], context: Context) -> Sizes:
        """As the data has it."""

    @abstractmethod
    def empty(self, layer: Any, size: int) -> nn.Sequential:
        """The two layers, as yet without their weights."""

    @abstractmethod
    def fit(self, layer: Any, moments: Moments, size: int) -> Fitted:
        """Their weights."""

    def promised(self, before: Model) -> frozenset[str]:
        return self.promises if before.macs() is not None else self.promises - {"fewer_macs"}

    def faults(self, model: TorchModel) -> Iterator[str]:
        known, (chosen, skipped) = self._candidates(model), self._chosen(model)
        if not known:
            yield f"{self.name}: the model has no {self.candidates}; leave it out"
            return
        wrong = list(Selection(self.include, self.exclude).faults(known))
        yield from (f"{self.name}: {line}" for line in wrong)
        if not wrong and not chosen:
            reason = next(iter(skipped.values()))
            yield f"{self.name}: nothing is left to change: {reason}; {self.wider()} would do"
        elif not wrong:
            yield from self.goal_faults(model, chosen)
            yield from self._fault_of_the_code(model, chosen)

    def goal_faults(self, model: TorchModel, chosen: list[str]) -> Iterator[str]:
        """What the chosen layers cannot become."""
        yield from ()

    def wider(self) -> str:
        """What would give it something to do."""
        return "a wider include"

    def preview(self, model: TorchModel, before: Preview) -> Preview:
        chosen, _ = self._chosen(model)
        sizes = self.likely_sizes(model, chosen)
        for name, size in sizes.items():
            model.module.set_submodule(name, self.empty(model.module.get_submodule(name), size))
        model.module.eval()
        return Preview(tuple(sizes), model.parameters(), model.nbytes(), model.macs(), before.exact and self.exact)

    def run(self, model: TorchModel, context: Context) -> TorchModel:
        model.require_floats(self.name)
        chosen, skipped = self._chosen(model)
        if not chosen:
            raise EffectError(next(self.faults(model)))
        if not len(context.calibration):
            raise DataError(f"{self.name}: {context.calibration.name}: no calibration examples")
        with threads(context.threads):  # sums depend on how many share them
            sizes = self.sizes(model, chosen, context)
            errors = self._walk(model, sizes, context)
        context.facts["separated"] = [len(sizes), len(chosen) + len(skipped)]
        context.facts["output_error"] = errors
        whole = {name: "its parts would be no smaller" for name in chosen if name not in sizes}
        context.facts["skipped"] = skipped | whole
        return model

    def check_effect(self, before: Model, after: Model, facts: dict[str, Any]) -> Sequence[str]:
        worse = [name for name, (nearest, fitted) in facts["output_error"].items() if not fitted <= nearest]
        return [f"fitted {name} to a larger error than the nearest weights have" for name in worse]

    def _walk(self, model: TorchModel, sizes: Sizes, context: Context) -> dict[str, list[float]]:
        """One layer after the other; the share of its outputs' variance that each misses, by the nearest weights and
        as fitted."""
        original, errors = model.copied(), {}
        watched = Watched(model, original, list(sizes), context)
        for index, (name, size) in enumerate(context.progress.track(sizes.items(), self.name, len(sizes))):
            layer = model.module.get_submodule(name)
            fitted = _finished(context, index)
            if fitted is None:
                try:
                    fitted = self.fit(layer, watched.moments(name), size)
                except SqueezeError as error:
                    raise ModelError(f"{name}: {error}") from None
                _keep(context, index, fitted)
            model.module.set_submodule(name, self._filled(layer, size, fitted))
            errors[name] = [fitted.errors[0], fitted.errors[-1]]
        return errors

    def _filled(self, layer: nn.Module, size: int, fitted: Fitted) -> nn.Sequential:
        pair = self.empty(layer, size)
        with torch.no_grad():
            for name, value in fitted.tensors.items():
                parameter = pair.get_parameter(name)
                parameter.copy_(value.reshape(parameter.shape))
        return pair

    def _candidates(self, model: TorchModel) -> list[str]:
        """Names of the layers that could be changed, in the order in which they run."""
        return [name for name in layer_names(model) if self.divides(model.module.get_submodule(name))]

    def _chosen(self, model: TorchModel) -> tuple[list[str], dict[str, str]]:
        """Names of the layers that are changed, in the order in which they run; why each other candidate stays."""
        chosen, skipped, selection = [], {}, Selection(self.include, self.exclude)
        for name in self._candidates(model):
            reason = selection.refusal([name]) or self.too_large(name, model.module.get_submodule(name))
            if reason is None:
                chosen.append(name)
            else:
                skipped[name] = reason
        return chosen, skipped

    def _fault_of_the_code(self, model: TorchModel, chosen: list[str]) -> Iterator[str]:
        """A module's own code may ask more of a layer than to be called."""
        copy = model.copied()
        for name in chosen:
            copy.module.set_submodule(name, self.empty(copy.module.get_submodule(name), 1).to("meta"))
        try:
            copy.module.to("meta").eval()
            copy.predict(copy.example())
        except ModelError as error:
            yield f"{self.name}: with two layers for one, {error}; exclude the layers whose code reads them"


class Watched:
    """What layers are given in a model, and what they gave in the original.

    Args:
        names: Layers, in the order in which they run.
    """

    def __init__(self, model: TorchModel, original: TorchModel, names: list[str], context: Context) -> None:
        self.model, self.original, self.data = model, original, context.calibration
        self.outputs = outputs_of(model, names)

    def moments(self, name: str) -> Moments:
        """Over the calibration examples, of one layer: inputs as they are now, outputs to aim at."""
        layer: Any = self.model.module.get_submodule(name)
        before: Any = self.original.module.get_submodule(name)
        calls = self.outputs.get(name, [])
        if not calls:
            raise SqueezeError("it never runs, so there is nothing to fit it to; exclude it")
        step, W = step_for(layer, calls[0], len(self.data)), matrix(before)
        moments = Moments(W.shape[1], W.shape[0])
        for batch in self.data.batches(EXAMPLES):
            now = inputs_of(self.model, layer, batch, len(calls))
            was = now if layer is before else inputs_of(self.original, before, batch, len(calls))
            for value, first in zip(now, was, strict=True):
                for X, aimed in zip(unfolded(layer, value, step), unfolded(before, first, step), strict=True):
                    moments.add(X[0].float(), _outputs(aimed[0].float(), W, before.bias))
        return moments


def matrix(layer: Any) -> Tensor:
    """``[out, columns]``: the weight of a layer of one group as one matrix, float32."""
    value: Tensor = layer.weight.data.flatten(1).float()
    return value


def pair(names: Sequence[str], first: nn.Module, second: nn.Module, training: bool) -> nn.Sequential:
    return nn.Sequential(OrderedDict(zip(names, (first, second), strict=True))).train(training)


def _outputs(X: Tensor, W: Tensor, bias: Tensor | None) -> Tensor:
    outputs = X @ W.t()
    return outputs if bias is None else outputs + bias.data.float()


def _finished(context: Context, index: int) -> Fitted | None:
    """A layer that an earlier try finished."""
    tensors = context.finished(piece_of(index))
    if tensors is None:
        return None
    return Fitted({n: value for n, value in tensors.items() if n != "errors"}, tensors["errors"].tolist())


def _keep(context: Context, index: int, fitted: Fitted) -> None:
    tensors = {**fitted.tensors, "errors": torch.tensor(fitted.errors, dtype=torch.float64)}
    context.keep(piece_of(index), {name: value.contiguous() for name, value in tensors.items()})
