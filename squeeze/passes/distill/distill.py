"""Distillation: learn from a teacher's predictions, and from its hidden features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from annotated_types import Ge, Gt, Le
from pydantic import field_validator
from torch import Tensor

from squeeze.algorithms.distillation import total_feature_loss
from squeeze.errors import SqueezeError
from squeeze.formats.grid_kind import GridKind
from squeeze.models.base import Batch, Model
from squeeze.models.options import Unused
from squeeze.models.resident import Resident
from squeeze.models.spec import ModelSpec
from squeeze.passes.base import Context
from squeeze.passes.distill.training import TrainingPass, require_targets
from squeeze.training.features import FeaturePairs, feature_faults
from squeeze.training.loop import Loss


class Distill(TrainingPass):
    """Train on the plan's ``data.train`` to predict what the teacher predicts; of a language model, at every token.

    Hinton et al., 2015, https://arxiv.org/abs/1503.02531; hidden features as in Romero et al., 2014,
    https://arxiv.org/abs/1412.6550. The teacher sees each batch as augmented, so its answer fits what the student saw.
    """

    name: ClassVar[str] = "distill"

    teacher: Literal["original"] | ModelSpec = "original"
    """Who teaches: the original, or a model given as the plan's own: {hf: ./large}."""
    temperature: Annotated[float, Gt(0)] | None = None
    """Above 1 the order of the wrong classes counts more. null: 4 for classifiers, 1 for language models."""
    alpha: Annotated[float, Ge(0), Le(1)] = 1.0
    """Weight of the teacher; the rest is the labels', or the next token's. An encoder learns from the teacher alone."""
    features: tuple[str, ...] = ()
    """Layers, by name, whose outputs should equal the teacher's."""
    feature_weight: Annotated[float, Gt(0)] = 1.0
    """Weight of the features beside the predictions."""

    @field_validator("features", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    def reads(self) -> tuple[str, ...]:
        named = () if self.teacher == "original" else (self.teacher.hf, self.teacher.weights)
        return tuple(name for name in named if name is not None)

    def faults(self, model: Model) -> Iterator[str]:
        if self.alpha < 1 and not model.task.learns:
            what = f"alpha: {self.alpha:g} leaves a part to labels"
            yield f"{self.name}: {what}, and {model.task.models} learn from none; 1 would do"
        yield from (f"{self.name}: {line}" for line in feature_faults(model.module_names(), self.features))

    def unused(self, model: Model, grid: Mapping[str, GridKind] | None) -> Iterator[Unused]:
        yield from super().unused(model, grid)
        if not self.features:
            yield Unused("feature_weight", "goes with features, and none is named")
        if not model.task.learns:
            yield Unused("temperature", f"softens predictions of classes; {model.task.models} give none: leave it out")
        if not self.alpha:
            yield Unused("temperature", "softens the teacher's predictions, to which alpha: 0 gives no weight")

    def settled(self, model: Model) -> Self:
        temperature = self.temperature or model.task.temperature
        return super().settled(model).model_copy(update={"temperature": temperature})

    @contextmanager
    def learning(self, student: Resident, context: Context) -> Iterator[Loss]:
        if self.alpha < 1:
            require_targets(student, context.train, self.name)
        assert self.temperature is not None, "run has settled it"
        temperature, teacher = self.temperature, self._teacher(context).resident()

        with FeaturePairs(student.module, teacher.module, self.features) as features:

            def loss(batch: Batch) -> Tensor:
                with torch.no_grad():
                    expected = teacher.predictions(batch)
                logits = _same_classes(student.predictions(batch), expected)
                value = student.task.teaching_loss(logits, expected, student.targets(batch), temperature, self.alpha)
                return value + self.feature_weight * total_feature_loss(features.pairs()) if self.features else value

            yield loss

    def _teacher(self, context: Context) -> Model:
        if self.teacher == "original":
            return context.load_original()
        return context.load_model(self.teacher)


def _same_classes(student: Tensor, teacher: Tensor) -> Tensor:
    if student.shape != teacher.shape:
        raise SqueezeError(f"distill: the teacher predicts {teacher.shape[1]} classes, the student {student.shape[1]}")
    return student
