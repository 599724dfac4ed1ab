"""What a pass and a whole run will take, of memory and of disk; answered from shapes, before anything runs.

The store takes no room for a language model on the same disk, whose files are linked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from squeeze.errors import Fault
from squeeze.evaluate.metrics import ClockMetric
from squeeze.evaluate.tokens import RUNTIME_BYTES
from squeeze.models.base import Model
from squeeze.models.language.artifact import LanguageArtifact
from squeeze.models.language.language_model import in_shards
from squeeze.passes.base import Preview
from squeeze.plan.document import Place
from squeeze.plan.duration import UNKNOWN, Effort
from squeeze.plan.memory import artifact_bytes, least_bytes, original_size, text_bytes
from squeeze.plan.plan import Plan, Step
from squeeze.plan.schedule import free_after, schedule
from squeeze.plan.state import Done, done_with
from squeeze.report.text import size

DISK = ("disk",)


@dataclass(frozen=True)
class Explained:
    """What the check knows of one pass before it runs."""

    name: str
    branch: str | None
    takes: str
    gives: str
    preview: Preview
    needs: tuple[str, ...]
    extra: str | None
    memory_bytes: int | None = None  # the peak, as far as the pass can tell
    keeps: str | None = None  # what it leaves in the store beside its model
    effort: Effort = UNKNOWN
    place: Place = ()  # of the pass in the plan
    again: bool = False  # whether a branch before has done the same: its model is taken from the store
    linked_bytes: int = 0  # of its model that are another one's in the store


@dataclass(frozen=True)
class Cost:
    """What a whole run will take.

    Args:
        memory_bytes: The peak, as far as passes and scoring can tell.
        store_bytes: The most that the store will hold of it at once, without the original's own files and what is kept
            of an original whose tokens are not known.
    """

    memory_bytes: int
    store_bytes: int


def cost_of(
    plan: Plan,
    model: Model | None,
    rows: Sequence[Explained],
    writing: Sequence[int],
    files: Mapping[Place, int],
) -> Cost | None:
    """What a run will take; None where the original is not known.

    Args:
        writing: Memory that each target's writer will take.
        files: By a branch's place, bytes that its target writes.
    """
    if model is None:
        return None
    scored = text_bytes(plan, model) if model.blocks else least_bytes(model) + RUNTIME_BYTES
    artifacts = [*files.values(), *(row.preview.nbytes for row in rows if row.gives == LanguageArtifact.form)]
    run = [artifact_bytes(plan, model, nbytes) for nbytes in artifacts] if model.blocks else []
    parts = [*(row.memory_bytes for row in rows), *writing, scored, *run]
    known = [takes for takes in parts if takes is not None]
    return Cost(max(known, default=least_bytes(model)), _store_bytes(plan, model, rows, files))


def _store_bytes(plan: Plan, model: Model, rows: Sequence[Explained], files: Mapping[Place, int]) -> int:
    """The most at once, where a plan limits it and what nothing needs any more is released; else everything."""
    kept = original_size(plan, model)
    original = _tables_apart(plan, model) if model.blocks else model.nbytes()
    held: dict[Done, int] = {("the original",): original + (kept.size_bytes or 0 if kept else 0)}
    steps = {row.place: row.preview.nbytes - row.linked_bytes for row in rows}

    def passed(step: Step, before: Done) -> tuple[Done, ...]:
        done = done_with(step, before)
        return (done, *((*done, str(number)) for number in range(1, step.pass_.repetitions())))

    nothing: Done = ()
    items = schedule(plan, nothing, passed, lambda branch, before: (*before, branch.name))
    largest = sum(held.values())
    for item, free in zip(items, free_after(items, nothing, packs=True), strict=True):
        takes = steps if item.step is not None else files
        held |= dict.fromkeys(item.makes, takes.get(item.place, 0))
        largest = max(largest, sum(held.values()))
        for key in free if plan.disk_bytes is not None else ():
            held.pop(key, None)
    return largest


def disk_faults(plan: Plan, cost: Cost | None) -> Iterator[Fault]:
    """A fault where the store will hold more than the plan allows, or could not give up what is timed."""
    if plan.disk_bytes is None:
        return
    if timed := next((metric for metric in plan.metrics if isinstance(metric, ClockMetric)), None):
        why = f"what is released to keep the store small cannot be timed a second time; leave out {timed.label} or disk"
        yield Fault(DISK, f"disk: does not go with {timed.label}: {why}")
    if cost is not None and cost.store_bytes > plan.disk_bytes:
        takes, enough = size(cost.store_bytes), f"disk: {cost.store_bytes / 1e6 + 0.5:.0f}MB would do"
        yield Fault(
            DISK, f"disk: {size(plan.disk_bytes)} is less than the {takes} that the store holds at once; {enough}"
        )


def linked_bytes(plan: Plan, step: Step, model: Model | None, preview: Preview, begins: bool) -> int:
    """Bytes of a pass's model that lie in another one's file: tables that a walk through the blocks leaves alone.

    Args:
        model: Before the pass.
        begins: Whether that is the original: then only one that was a .gguf file has its tables apart.
    """
    if model is None or not model.blocks or not step.pass_.links_tables:
        return 0
    if begins and not _tables_apart(plan, model):
        return 0
    outside = set(in_shards(model).skeleton.outside)
    if not outside.isdisjoint({*preview.touched, *preview.grid}):
        return 0  # one that changes takes the others along
    return _outside_bytes(model)


def _tables_apart(plan: Plan, model: Model) -> int:
    """Bytes of an original's tables where the store writes them out: those of a .gguf file."""
    return _outside_bytes(model) if plan.model is not None and plan.model.kind == "gguf" else 0


def _outside_bytes(model: Model) -> int:
    outside = set(in_shards(model).skeleton.outside)
    return sum(layer.nbytes for layer in model.layers() if layer.name in outside)
