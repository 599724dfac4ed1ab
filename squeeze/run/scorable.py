"""What a plan's metrics read when a model is scored outside a run, and why some of them cannot be scored."""

from __future__ import annotations

from squeeze.data.base import Dataset
from squeeze.evaluate.evidence.base import EVALUATE, TRAIN, Sources, Subject
from squeeze.evaluate.evidence.facts import Clock
from squeeze.evaluate.metrics import Metric
from squeeze.models.base import Model
from squeeze.models.tasks.base import Task
from squeeze.plan.forms import FORMS
from squeeze.plan.plan import Plan
from squeeze.progress import Progress
from squeeze.run.opened import own_data
from squeeze.store import Store

CLOCK = "a time of one host; squeeze bench measures this one's"


def open_sources(plan: Plan, task: Task, original: Subject | None, store: Store, progress: Progress) -> Sources:
    """The data that the plan's metrics read, opened."""
    roles = {role for metric in plan.metrics for role in metric.reads()} & set(plan.data)
    data: dict[str, Dataset] = {role: plan.open_data(role) for role in sorted(roles)}
    own_sets = {m.label: own_data(plan, m, data.get(EVALUATE)) for m in plan.metrics}
    own = {label: one for label, one in own_sets.items() if one is not None}
    opened, limited = (data.get(EVALUATE), data.get(TRAIN), own), plan.memory_bytes is not None
    return Sources(store, progress, task, original, *opened, plan.root, limited)


def obstacle(plan: Plan, metric: Metric, model: Model, sources: Sources) -> str | None:
    """Why a model cannot be scored by a metric; None: it can."""
    if (reason := model.cannot_run()) and metric.evidence.runs:
        return f"not run: {reason}"
    if issubclass(metric.evidence, Clock):
        return CLOCK
    if message := metric.misfit(model.task, FORMS[model.form]):
        return message
    for role, data in ((EVALUATE, sources.evaluate), (TRAIN, sources.train)):
        if role in metric.reads() and data is None:
            return f"{plan.file} names no data.{role}"
    return None
