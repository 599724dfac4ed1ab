"""Distillation: learn from a teacher's predictions, and from its hidden features."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from pydantic import field_validator
from torch import Tensor

from squeeze.algorithms.distillation import distillation_loss, total_feature_loss
from squeeze.errors import SqueezeError
from squeeze.models.base import Batch, Model
from squeeze.models.spec import ModelSpec
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context
from squeeze.passes.distill.features import FeaturePairs, feature_faults
from squeeze.passes.distill.training import Loss, TrainingPass, example_inputs


class Distill(TrainingPass):
    """Train on the plan's ``data.train`` to predict what the teacher predicts.

    Hinton et al., 2015, https://arxiv.org/abs/1503.02531; hidden features as in Romero et al., 2014,
    https://arxiv.org/abs/1412.6550. The teacher sees each batch as augmented, so its answer fits what the student saw.
    """

    name: ClassVar[str] = "distill"

    teacher: Literal["original"] | ModelSpec = "original"  # or a model, given as the plan's own: {hf: ./large}
    temperature: Annotated[float, Gt(0)] = 4.0  # above 1 the wrong classes' order counts more
    alpha: Annotated[float, Ge(0), Le(1)] = 1.0  # weight of the teacher; the rest is the labels'
    features: tuple[str, ...] = ()  # layers whose outputs should equal the teacher's
    feature_weight: Annotated[float, Gt(0)] = 1.0

    @field_validator("features", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    def reads(self) -> tuple[str, ...]:
        named = () if self.teacher == "original" else (self.teacher.hf, self.teacher.weights)
        return tuple(name for name in named if name is not None)

    def faults(self, model: Model) -> Iterator[str]:
        if isinstance(model, TorchModel):
            yield from (f"{self.name}: {line}" for line in feature_faults(model, self.features))

    @contextmanager
    def learning(self, model: TorchModel, context: Context) -> Iterator[Loss]:
        if self.alpha < 1:
            context.train.require_labels()
        teacher = self._teacher(context)
        teacher.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        with FeaturePairs(model, teacher, self.features) as features:

            def loss(batch: Batch) -> Tensor:
                inputs = example_inputs(batch)
                with torch.no_grad():
                    told = teacher.forward(inputs)
                said = _same_classes(model.forward(inputs), told)
                value = distillation_loss(said, told, batch.labels, self.temperature, self.alpha)
                return value + self.feature_weight * total_feature_loss(features.pairs()) if self.features else value

            yield loss

    def _teacher(self, context: Context) -> TorchModel:
        if self.teacher == "original":
            return context.load_original()
        return context.load_model(self.teacher)


def _same_classes(student: Tensor, teacher: Tensor) -> Tensor:
    if student.shape != teacher.shape:
        raise SqueezeError(f"distill: the teacher predicts {teacher.shape[1]} classes, the student {student.shape[1]}")
    return student
