"""Distillation: learn from a teacher's predictions, and from its hidden features."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from squeeze.algorithms.distillation import Divergence
from squeeze.algorithms.sampled_teacher import MOST_UNIQUE
from squeeze.data.base import Dataset
from squeeze.formats.grid_kind import GridKind
from squeeze.models.base import ADAPTER, Batch, Model
from squeeze.models.language.adapter import adaptable
from squeeze.models.language.footprint import FLOAT
from squeeze.models.language.language_model import in_shards
from squeeze.models.options import Patterns, Unused
from squeeze.models.resident import Resident
from squeeze.models.spec import ModelSpec
from squeeze.models.tasks.base import TOKENS, models_that_give
from squeeze.models.torch_stage import TorchStage
from squeeze.passes.base import OTHER_TOKENS, Context, Preview
from squeeze.passes.distill.cached import cached_teacher, loss_from_cache, require_same_width
from squeeze.passes.distill.training import TrainingPass, require_targets
from squeeze.training.cached_teacher import Taught, expected_bytes
from squeeze.training.features import FeaturePairs, feature_faults
from squeeze.training.footprint import training_bytes
from squeeze.training.loop import Loss
from squeeze.training.proof import grid_broken
from squeeze.training.trained import OnGrids, TrainedWeights, train_on_grid
from squeeze.versions import content_digest

SCALES_TEMPERATURE = 2.0


class Distill(TrainingPass):
    """Train on the plan's ``data.train`` to predict what the teacher predicts; of a language model, at every token.

    Hinton et al., 2015, https://arxiv.org/abs/1503.02531; hidden features as in Romero et al., 2014,
    https://arxiv.org/abs/1412.6550. The teacher sees each batch as augmented, so its answer fits what the student saw.
    """

    name: ClassVar[str] = "distill"
    ranked: ClassVar[str] = "train: lora or quantized: adapter"

    forwards: ClassVar[int] = 4  # the teacher's, too

    teacher: Literal["original"] | ModelSpec = "original"
    """Who teaches: the original, or a model given as the plan's own: {hf: ./large}."""
    temperature: Annotated[float, Gt(0)] | None = None
    """Above 1 the order of the wrong classes counts more. null: 4 for classifiers, 1 for language models, 2 for
    scales alone."""
    alpha: Annotated[float, Ge(0), Le(1)] = 1.0
    """Weight of the teacher; the rest is the labels', or the next token's. An encoder learns from the teacher alone."""
    divergence: Divergence = "forward"
    """Which way predictions are compared. forward: the student covers all that the teacher finds likely; reverse: it
    keeps to what the teacher finds likely; skewed: forward, with smaller gradients where the two hardly overlap."""
    quantized: OnGrids | None = None
    """Of a quantized model: scales: its integers stay, scales and zero points are trained; all: every weight is,
    through the grid that is written; adapter: all of it stays, and low-rank adapters beside its linears are trained
    and kept in a file of their own, for llama.cpp (target: gguf) and PEFT. null: the model has floats."""
    cached: Annotated[int, Gt(0), Le(MOST_UNIQUE)] | None = None
    """Of a language model: draw the teacher's predictions once and keep them in the store for every student, so many
    different tokens a position in the mean, each in about 2 bytes: likely ones with their probability, the others by
    chance. The paper takes 12; 256 are hardly told from all. null: the teacher is in memory all along."""
    features: Patterns | dict[str, str] = ()
    """Layers, by name, whose outputs should equal the teacher's; {layers.2: layers.5} compares two of other names.
    Where a student is narrower, the linear map that takes its outputs nearest to the teacher's stands between, solved
    anew for each batch."""
    feature_weight: Annotated[float, Gt(0)] = 1.0
    """Weight of the features beside the predictions."""

    def reads(self) -> tuple[str, ...]:
        files = () if self.teacher == "original" else (self.teacher.hf, self.teacher.weights)
        return tuple(name for name in files if name is not None)

    def on_grid(self) -> OnGrids | None:
        return self.quantized

    def refused(self) -> frozenset[str]:
        return super().refused() - ({"quantized"} if self.quantized else set()) | {OTHER_TOKENS}

    def left(self) -> frozenset[str]:
        return super().left() | ({ADAPTER} if self.quantized == "adapter" else set())

    @property
    def trains_adapters(self) -> bool:
        return self.train == "lora" or self.quantized == "adapter"

    def grid_faults(self, grid: Mapping[str, GridKind], model: Model | None = None) -> Iterator[str]:
        if self.quantized and not grid:
            what = f"quantized: {self.quantized} trains weights on their grid"
            yield f"{self.name}: {what}, and none lies on one; gptq before it would put them there"
        if self.quantized == "adapter" and model is not None and model.blocks:
            linears = self._linears(in_shards(model), grid)
            least = min((min(part.weight.shape) for part in linears), default=self.rank)
            if self.rank > least:
                yield f"{self.name}: rank: {self.rank} is more than the {least} channels of the narrowest weight"

    def _linears(self, model: TorchStage, grid: Collection[str]) -> Collection[nn.Linear]:
        """Those that get an adapter."""
        return adaptable(model.module, [name for name in grid if name not in model.ends]).values()

    def weights(self, student: Resident, seed: int) -> TrainedWeights:
        if self.quantized:
            return train_on_grid(student, self.quantized, self.rank, seed)
        return super().weights(student, seed)

    def check_effect(self, before: Model, after: Model, facts: dict[str, Any]) -> Sequence[str]:
        return list(grid_broken(before, after, self.quantized)) if self.quantized else ()

    def faults(self, model: Model) -> Iterator[str]:
        yield from super().faults(model)
        if self.cached is not None:
            yield from (f"{self.name}: cached: {line}" for line in self._cached_faults(model))
        if self.divergence not in model.task.divergences:
            yield f"{self.name}: divergence: {self.divergence} is not defined for {model.task.models}; leave it out"
        if self.alpha < 1 and not model.task.learns:
            what = f"alpha: {self.alpha:g} leaves a part to labels"
            yield f"{self.name}: {what}, and {model.task.models} learn from none; 1 would do"
        yield from (f"{self.name}: {line}" for line in feature_faults(model.module_names(), self.features))

    def _cached_faults(self, model: Model) -> Iterator[str]:
        """What tokens that were drawn once cannot teach."""
        if model.task.outputs != TOKENS:
            yield f"keeps predictions of next tokens, and the model is none of {models_that_give(TOKENS)}; leave it out"
        if self.divergence != "forward":
            yield f"what is drawn can be learnt forward only; divergence: {self.divergence} needs all predictions"
        if self.features:
            yield "features are the teacher's too, and it is not in memory; leave one of the two out"
        if self.temperature not in (None, 1.0):
            yield f"the teacher is drawn from at temperature 1, not {self.temperature:g}; leave temperature out"

    def unused(self, model: Model, grid: Mapping[str, GridKind] | None) -> Iterator[Unused]:
        yield from super().unused(model, grid)
        if self.quantized:
            yield Unused("train", f"names weights that are floats; quantized: {self.quantized} says what is trained")
        if not self.features:
            yield Unused("feature_weight", "goes with features, and none is named")
        if not model.task.learns:
            yield Unused("temperature", f"softens predictions of classes; {model.task.models} give none: leave it out")
        if not self.alpha:
            yield Unused("temperature", "softens the teacher's predictions, to which alpha: 0 gives no weight")

    def settled(self, model: Model) -> Self:
        usual = model.task.temperature if self.quantized != "scales" else SCALES_TEMPERATURE
        usual = usual if self.cached is None else 1.0
        temperature = self.temperature or usual
        return super().settled(model).model_copy(update={"temperature": temperature})

    def memory_bytes(self, model: TorchStage, tokens: int, limit: int | None, nbytes: int | None = None) -> int | None:
        teacher = self.cached is None
        return training_bytes(model, self, tokens, self.quantized, teacher) if model.blocks else None

    def preview(self, model: TorchStage, before: Preview) -> Preview:
        if self.quantized != "adapter" or before.parameters is None:
            return super().preview(model, before)
        added = self.rank * sum(sum(part.weight.shape) for part in self._linears(model, before.grid))
        macs = None if before.macs is None else before.macs + added
        more = before.parameters + added, before.nbytes + FLOAT * added
        return replace(before, touched=(), parameters=more[0], nbytes=more[1], macs=macs)

    def keeps(self, model: TorchStage) -> str | None:
        if self.cached is None:
            return None
        assert model.vocabulary is not None, "only texts are learnt from so"
        size = expected_bytes(self.cached, model.vocabulary)
        return f"{self.name}: the store keeps about {size} bytes of the teacher for each token of data.train"

    def asks_original(self) -> bool:
        return self.cached is None

    def examples(self, student: Resident, context: Context) -> Dataset:
        if self.alpha < 1:
            require_targets(student, context.train, self.name)
        if self.cached is None:
            return super().examples(student, context)
        identity: dict[str, Any] = {"teacher": context.original_key}
        if self.teacher != "original":
            files = [content_digest(context.root / name) for name in self.reads()]
            identity = {"teacher": self.options()["teacher"], "files": files}
        cache = cached_teacher(lambda: self._teacher(context), identity, self.cached, student.vocabulary, context)
        context.facts["teacher_bytes_per_token"] = round(cache.token_bytes, 2)
        return Taught(context.train, cache)

    @contextmanager
    def learning(self, student: Resident, context: Context) -> Iterator[Loss]:
        if self.cached is not None:
            yield loss_from_cache(student, self.alpha)
            return
        assert self.temperature is not None, "run has settled it"
        temperature, teacher = self.temperature, self._teacher(context).resident(self.on_disk)
        teacher.module.requires_grad_(False)
        if context.peers is not None:
            context.peers.divide(teacher)
        extra = {} if self.divergence == "forward" else {"divergence": self.divergence}

        with FeaturePairs(student, teacher, self.features) as features:
            if features.axes:
                context.facts["feature_widths"] = features.widths()

            def loss(batch: Batch) -> Tensor:
                with torch.no_grad():
                    expected = teacher.predictions(batch)
                logits, targets = student.predictions(batch), student.targets(batch)
                require_same_width(expected.shape[1], logits.shape[1])
                value = student.task.teaching_loss(logits, expected, targets, temperature, self.alpha, **extra)
                return value + self.feature_weight * features.loss(context.peers) if self.features else value

            yield loss

    def _teacher(self, context: Context) -> Model:
        if self.teacher == "original":
            return context.load_original()
        return context.load_model(self.teacher)
