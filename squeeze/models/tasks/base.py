"""A task: what a model does with an example, and all that follows from it.

It decides what the model is right about (``targets``), what a training makes smaller (``loss``, ``teaching_loss``),
what goes into a package as the golden input, which metrics a plan has by default and what the packaged script shows.
Where weights lie, and in which stage a model is, are no business of a task. Tasks hold no state.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor

from squeeze import registry

if TYPE_CHECKING:
    from squeeze.models.base import Batch, Model

ROWS, TOKENS = "rows", "tokens"
DESCRIPTION = "model.json"  # beside a stored model: what it is
SGD_RATE = 0.01
ADAFACTOR_RATE = 3e-3  # of a weight's own size, as Adafactor measures its steps
Optimizer = Literal["sgd", "adamw", "adafactor"]


class Task(ABC):
    """What a model does; registered by name, built in or by the entry-point group ``squeeze.tasks``."""

    name: ClassVar[str]
    models: ClassVar[str]
    """What models with this task are called, in the plural."""
    outputs: ClassVar[str] = ROWS
    """What a model gives. ``rows``: some numbers per example, ``[n, width]``; ``tokens``: predictions of each next
    token of a text. A task whose models give anything else names it here, and its metrics bring evidence of it."""
    metrics: ClassVar[tuple[str, ...]]
    """What a plan measures by default, by registered names."""
    shows: ClassVar[Literal["classes", "numbers", "text"]] = "numbers"
    """What the packaged script makes of the outputs."""
    learns: ClassVar[bool] = True
    """Whether data can say what is right; else a model learns from a teacher only."""
    adamw_rate: ClassVar[float] = 5e-5
    """Learning rate of AdamW for a model that reads tokens."""
    temperature: ClassVar[float] = 1.0
    """Of distillation, where the plan names none."""
    divergences: ClassVar[tuple[str, ...]] = ("forward",)
    """Of predictions from a teacher's, by name; of more than one, ``teaching_loss`` takes ``divergence`` by keyword."""

    @abstractmethod
    def golden(self, model: Model) -> Batch:
        """Examples for a package: seeded noise or words of ours, for a package carries nobody's data."""

    def predictions(self, output: Tensor) -> Tensor:
        """What a module gave for a batch as rows to learn from, ``[predictions, width]``, with gradients."""
        return output

    @abstractmethod
    def targets(self, batch: Batch) -> Tensor | None:
        """What would be right, one entry per prediction; None where the data does not say it."""

    @abstractmethod
    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """A scalar, mean over ``[predictions, width]``."""

    @abstractmethod
    def teaching_loss(
        self, student: Tensor, teacher: Tensor, targets: Tensor | None, temperature: float, alpha: float
    ) -> Tensor:
        """How far a student's predictions are from a teacher's, both ``[predictions, width]``; a scalar.

        Args:
            targets: May be None only where ``alpha`` is 1.
            alpha: Weight of the teacher; the rest is that of ``targets``.
        """

    def label_fault(self, highest: int, width: int) -> str | None:
        """Why a label cannot be one of a model whose rows are ``width`` wide; None: it can."""
        return None

    def optimizer(self, model: Model) -> Optimizer:
        """What trains such a model best where the plan names no optimizer."""
        return "adamw" if model.reads_tokens() else "sgd"

    def learning_rate(self, model: Model, optimizer: Optimizer) -> float:
        """The highest rate where the plan names none."""
        if optimizer == "sgd":
            return SGD_RATE
        if optimizer == "adafactor":
            return ADAFACTOR_RATE
        return self.adamw_rate if model.reads_tokens() else 1e-3


@cache
def task_named(name: str) -> Task:
    """The task of that name.

    Raises:
        UsageError: none is registered under it, or it cannot be imported.
    """
    task: Task = registry.load("tasks", name)()
    return task


def models_that_give(outputs: str) -> str:
    """What built-in tasks call their models with such outputs: ``classifiers and encoders``."""
    known = [task_named(name) for name in registry.BUILTIN["tasks"]]
    return " and ".join(task.models for task in known if task.outputs == outputs) or f"models that give {outputs}"


def described(model: Model) -> Mapping[str, str]:
    """A model's task for what is written beside it; nothing for a classifier, which a model is by default."""
    return {} if model.task.name == "classify" else {"task": model.task.name}


def read_task(file: Path) -> Task:
    """The task in a JSON file that :func:`described` went into; a folder of old has no such file."""
    facts = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return task_named(str(facts.get("task", "classify")))
