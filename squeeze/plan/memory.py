"""Does a plan fit into the memory that it allows? Answered from shapes, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from squeeze.data.text import TextData, TextSource
from squeeze.errors import Fault
from squeeze.evaluate.metrics import ExampleMetric
from squeeze.evaluate.tokens import artifact_scoring_bytes, scoring_bytes
from squeeze.models.base import Model
from squeeze.models.language.footprint import FLOAT, PROCESS_BYTES
from squeeze.models.language.language_model import in_shards
from squeeze.passes.base import Preview
from squeeze.plan.plan import Branch, Plan, Step
from squeeze.report.text import size

PLACE = ("memory",)


@dataclass(frozen=True)
class OriginalSize:
    """What the store keeps of an original language model, so that KL and flips of every row are exact.

    Args:
        token_bytes: For each token of ``data.evaluate``.
        size_bytes: For all of them; None: as many as the text has.
    """

    token_bytes: int
    size_bytes: int | None


def memory_of(plan: Plan, step: Step, model: Model | None, nbytes: int | None) -> int | None:
    """What a pass will take; None where it cannot tell.

    Args:
        nbytes: Of the model that it is given, as stored.
    """
    if model is None:
        return None
    return step.pass_.memory_bytes(model, _tokens(plan, step), plan.memory_bytes, nbytes)


def too_little_memory(plan: Plan, step: Step, model: Model | None, takes: int | None) -> Iterator[Fault]:
    """A fault where a pass takes more than the plan allows, with the options that would do instead."""
    at = f"{step.pass_.name} (line {step.line})" if step.line else step.pass_.name
    if model is None or takes is None or plan.memory_bytes is None or takes <= plan.memory_bytes:
        return
    saving = step.pass_.saving(model, _tokens(plan, step), plan.memory_bytes)
    yield from _fault(plan, at, takes, instead=f", or {saving}" if saving else "")


def writing_of(branch: Branch, model: Model | None, preview: Preview | None) -> int | None:
    """What writing a target's files will take; None where it cannot tell."""
    if branch.target is None or model is None or preview is None:
        return None
    return branch.target.memory_bytes(model, preview.grid)


def too_little_to_write(plan: Plan, branch: Branch, takes: int | None) -> Iterator[Fault]:
    """A fault where writing them takes more than the plan allows."""
    yield from _fault(plan, f"writing the files of target {branch.name}", takes)


def original_size(plan: Plan, model: Model | None) -> OriginalSize | None:
    """None where no metric reads a language model's tokens."""
    source = plan.data.get("evaluate")
    if model is None or not model.blocks or not isinstance(source, TextData) or not _scored(plan):
        return None
    hidden = in_shards(model).hidden_bytes
    tokens = None if source.samples is None else source.samples * source.length
    return OriginalSize(hidden(1), None if tokens is None else hidden(tokens))


def scoring_faults(plan: Plan, model: Model | None) -> Iterator[Fault]:
    """A fault where scoring takes more than the plan allows."""
    if model is None:
        return
    if model.blocks:
        yield from _fault(plan, "scoring", text_bytes(plan, model))
    else:
        yield from _fault(plan, "a run", least_bytes(model), "takes at least")


def text_bytes(plan: Plan, model: Model) -> int | None:
    """Of a language model on the plan's text; None: it is not scored on any."""
    source = plan.data.get("evaluate")
    if not isinstance(source, TextData) or not _scored(plan):
        return None
    return scoring_bytes(in_shards(model), source.length, source.samples)


def artifact_bytes(plan: Plan, model: Model, nbytes: int) -> int | None:
    """The same of its file in a runtime."""
    source = plan.data.get("evaluate")
    if not isinstance(source, TextData) or not _scored(plan):
        return None
    return artifact_scoring_bytes(in_shards(model), nbytes, source.length, source.samples)


def least_bytes(model: Model) -> int:
    """The least that any run takes: the process, and the weights as float32."""
    return PROCESS_BYTES + FLOAT * (model.parameters() or 0)


def timing_fault(plan: Plan, metric: str, model: Model) -> str | None:
    """Why the original cannot be timed within the plan's memory: it lies there whole, as float32."""
    takes = least_bytes(model)
    if plan.memory_bytes is None or takes <= plan.memory_bytes:
        return None
    allowed = size(plan.memory_bytes)
    return f"{metric} loads the original as float32: {size(takes)} of memory; {allowed} is allowed: leave it out"


def _scored(plan: Plan) -> bool:
    return any(isinstance(metric, ExampleMetric) for metric in plan.metrics)


def _fault(plan: Plan, what: str, takes: int | None, verb: str = "takes", instead: str = "") -> Iterator[Fault]:
    if plan.memory_bytes is not None and takes is not None and takes > plan.memory_bytes:
        would = "would do" if verb == "takes" else "or more would do"
        enough = f"memory: {takes / 1e9 + 0.05:.1f}GB{instead} {would}"
        yield Fault(
            PLACE, f"memory: {size(plan.memory_bytes)} is less than the {size(takes)} that {what} {verb}; {enough}"
        )


def _tokens(plan: Plan, step: Step) -> int:
    """Of one sequence for a pass that trains, of the calibration text for another."""
    return _sequence_tokens(plan) if step.pass_.trains else _calibration_tokens(plan)


def _sequence_tokens(plan: Plan) -> int:
    """Of one sequence that is trained on; 0: not known."""
    source = plan.data.get("train")
    return source.length if isinstance(source, TextSource) else 0


def _calibration_tokens(plan: Plan) -> int:
    """As many as the plan names; without a number the text decides, and what does not fit goes to disk."""
    source = plan.data.get("calibrate")
    return source.length * (source.most_sequences() or 0) if isinstance(source, TextSource) else 0
