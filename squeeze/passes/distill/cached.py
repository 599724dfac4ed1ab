"""A teacher's predictions from the store, or drawn now, and what a student learns from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from squeeze.algorithms.sampled_teacher import sampled_loss
from squeeze.algorithms.threads import threads
from squeeze.errors import SqueezeError
from squeeze.models.base import Batch, Model
from squeeze.models.resident import Resident
from squeeze.passes.base import Context
from squeeze.training.cached_teacher import SHARES, TOKENS, CachedTeacher, write_cache
from squeeze.training.loop import Loss

ANOTHER = "a teacher with the student's classes, or its tokenizer, would do"


def require_same_width(teacher: int | None, student: int | None) -> None:
    """Raise ``SqueezeError`` where a student cannot predict what its teacher does."""
    if teacher != student:
        raise SqueezeError(f"distill: the teacher predicts {teacher} classes, the student {student}; {ANOTHER}")


def cached_teacher(
    load: Callable[[], Model], identity: Mapping[str, Any], unique: int, vocabulary: int | None, context: Context
) -> CachedTeacher:
    """A teacher's predictions on the plan's training text; a killed run resumes after the last whole piece.

    Args:
        load: Reads the teacher.
        identity: What makes it this teacher, as JSON values.
        unique: Different tokens a position, about.
        vocabulary: The student's.
    """
    data, store = context.train, context.store
    inputs = {**identity, "data": data.digest, "unique": unique, "seed": context.seed, "threads": context.threads}
    journal = store.journal(store.key("teacher", inputs)) if store else context.journal

    def write(folder: Path) -> None:
        teacher = load()
        require_same_width(teacher.vocabulary, vocabulary)
        with threads(context.threads):
            write_cache(folder, teacher, data, unique, context.seed, journal, context.progress)

    if store is not None:
        cache = store.cached("teacher", inputs, write, CachedTeacher, "a teacher's predictions")
    else:
        write(folder := context.work_folder())
        cache = CachedTeacher(folder)
    require_same_width(cache.vocabulary, vocabulary)
    return cache


def loss_from_cache(student: Resident, alpha: float) -> Loss:
    """The loss of batches that carry their teacher's predictions; ``alpha`` is the teacher's weight."""

    def loss(batch: Batch) -> Tensor:
        logits, targets = student.predictions(batch), student.targets(batch)
        tokens, shares = (batch.inputs[name].flatten(0, 1) for name in (TOKENS, SHARES))
        value = alpha * sampled_loss(logits, tokens, shares)
        if alpha < 1:
            assert targets is not None, "a text says what comes next"
            value = value + (1 - alpha) * student.task.loss(logits, targets)
        return value

    return loss
