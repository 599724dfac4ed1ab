"""A user's module called with a batch of examples, and what it does: its task."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from torch import Tensor, nn

from squeeze import registry
from squeeze.errors import ModelError, UsageError
from squeeze.models.base import InputSpec
from squeeze.models.tasks.base import ROWS, Task, task_named

LOGITS = "logits [n, classes] were"


def task_of(module: nn.Module, inputs: tuple[InputSpec, ...]) -> Task:
    """As the module's own ``task`` says; else one that reads tokens is an encoder, and any other a classifier.

    Raises:
        ModelError: it names no registered task, or one that a module is not run for here.
    """
    declared = getattr(module, "task", None)
    if declared is None:
        return task_named("embed" if any(spec.dtype.startswith("int") for spec in inputs) else "classify")
    if not (isinstance(declared, str) and declared in registry.entries("tasks")):
        raise ModelError(f"the module's task is {declared!r:.60}; {_tasks()} would do")
    try:
        task = task_named(declared)
    except UsageError as error:
        raise ModelError(f"the module's task: {error}") from error
    if task.outputs != ROWS:
        raise ModelError(f"the module's task is {declared!r:.60}; {_tasks()} would do")
    return task


def _tasks() -> str:
    """Built-in tasks of a module that answers a batch in one call."""
    return " or ".join(repr(name) for name in registry.BUILTIN["tasks"] if task_named(name).outputs == ROWS)


def forward(module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Call a module with a batch's inputs: by name where its ``forward`` knows the names, else the one input as is."""
    known = inspect.signature(module.forward).parameters
    if set(inputs) <= set(known):
        output = module(**inputs)
    elif "pixel_values" in known and set(inputs) == {"image"}:
        output = module(pixel_values=inputs["image"])
    elif len(inputs) == 1:
        output = module(next(iter(inputs.values())))
    else:
        raise ModelError(f"the model takes {', '.join(known)}; the data gives {', '.join(inputs)}")
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise ModelError(f"the model returned a {type(output).__name__}; {LOGITS} expected")
    return logits
