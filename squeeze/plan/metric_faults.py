"""Do a plan's metrics fit its model, and is there what they ask for?"""

from __future__ import annotations

from collections.abc import Iterator

from squeeze.data.text import TextData
from squeeze.errors import Fault
from squeeze.evaluate.counts import Macs, Parameters
from squeeze.evaluate.evidence.base import EVALUATE, TRAIN
from squeeze.evaluate.generation import GenerationMetric
from squeeze.evaluate.metrics import Metric
from squeeze.evaluate.perplexity import TextMetric
from squeeze.models.base import Model
from squeeze.models.language.artifact import LanguageArtifact
from squeeze.models.tasks.base import TOKENS, task_named
from squeeze.passes.base import OTHER_TOKENS
from squeeze.plan.forms import FORMS
from squeeze.plan.memory import timing_fault
from squeeze.plan.options import unused_faults
from squeeze.plan.plan import Plan


def metric_faults(plan: Plan, form: str | None, model: Model | None, roles: frozenset[str]) -> Iterator[Fault]:
    """Faults of each metric at its place in the plan.

    Args:
        form: Of the original; None: not known.
        model: Its outline, where it could be built.
        roles: Roles of data that the caller brings himself.
    """
    for index, metric in enumerate(plan.metrics):
        yield from (Fault(("metrics", index), message) for message in _faults(plan, metric, form, model, roles))
        if model is not None:
            yield from unused_faults(metric, ("metrics", index, metric.name), model, {}, metric.name)


def unknown_faults(plan: Plan, model: Model | None) -> Iterator[Fault]:
    """Bounds on a count that is not known of the original: nothing that is made of it could ever be held to them."""
    counted = {metric.label: metric for metric in plan.metrics if isinstance(metric, Macs | Parameters)}
    for bound in plan.budget:
        metric = counted.get(bound.metric)
        if model is not None and metric is not None and metric.value(model) is None:
            message = f"{bound.metric} of this model are unknown: {metric.unknown}; leave the bound out"
            yield Fault(("budget", bound.metric), f"budget: {message}")


def _faults(plan: Plan, metric: Metric, form: str | None, model: Model | None, roles: frozenset[str]) -> Iterator[str]:
    task = model.task if model is not None else task_named("generate" if form == "language" else "classify")
    if form is not None and (message := metric.misfit(task, FORMS[form])):
        yield message
    if TRAIN in metric.reads() and TRAIN not in {*plan.data, *roles}:
        yield f"{metric.name} is fitted on data.{TRAIN}, which the plan does not name"
    yield from metric.faults(plan.root)
    cutting = next((step for _, step in plan.every_step() if OTHER_TOKENS in step.pass_.leaves), None)
    if cutting is not None and metric.needs_same_tokens():
        at = f" (line {cutting.line})" if cutting.line else ""
        what = f"{metric.label} says nothing of a model with other tokens, which {cutting.pass_.name}{at} leaves"
        yield f"{what}; bits_per_byte, size and parameters do"
    if isinstance(metric, TextMetric) and metric.convention:
        yield from _convention_faults(plan, metric, model)
    if isinstance(metric, GenerationMetric) and task.outputs == TOKENS:
        yield from _generation_faults(plan, metric, model)


def _convention_faults(plan: Plan, metric: TextMetric, model: Model | None) -> Iterator[str]:
    """A convention cuts the evaluation text anew, to windows that the model must be able to read."""
    source = plan.data.get(EVALUATE)
    if source is not None and not isinstance(source, TextData):
        yield f"{metric.label}: data.{EVALUATE} is {source.kind}, no text to cut anew; {{text: file}} would do"
    length = metric.length or (source.length if isinstance(source, TextData) else 0)
    longest = model.context if model is not None else None
    if longest is not None and length > longest:
        yield f"{metric.label}: length: {length} tokens are more than the {longest} that the model reads"


def _generation_faults(plan: Plan, metric: GenerationMetric, model: Model | None) -> Iterator[str]:
    """Only files that a runtime loads are timed: the plan must make some, and the original's must fit beside them."""
    steps = [*plan.steps, *(step for branch in plan.branches for step in branch.steps)]
    exported = any(output.form == LanguageArtifact.form for step in steps for _, output in step.pass_.ways)
    if not exported and all(branch.target is None for branch in plan.branches):
        yield f"{metric.name} times the files that a target writes; the plan names no target"
    longest = model.context if model is not None else None
    if longest is not None and metric.length() > longest:
        yield (
            f"{metric.name}: {metric.length()} tokens are more than the {longest} that the model reads"
            "; a smaller prompt would do"
        )
    if model is not None and (message := timing_fault(plan, metric.name, model)):
        yield message
