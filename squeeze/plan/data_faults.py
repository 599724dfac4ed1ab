"""Is the data of a plan there, does it say what metrics ask of it, and can its original do what it is asked for?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from squeeze.data.synthesize import SynthesizeData
from squeeze.data.text import TextSource
from squeeze.errors import Fault
from squeeze.evaluate.evidence.base import EVALUATE
from squeeze.models.language.continued import TOGETHER, writing_bytes
from squeeze.models.language.footprint import PROCESS_BYTES
from squeeze.models.language.language_model import LanguageModel, in_shards
from squeeze.models.tasks.base import TOKENS, models_that_give
from squeeze.plan.plan import Plan
from squeeze.plan.state import State
from squeeze.report.text import size

LANGUAGE = LanguageModel.form


def data_faults(plan: Plan, given: frozenset[str]) -> Iterator[Fault]:
    """Faults of each role's source; what is missing may be why the model's inputs are not known.

    Args:
        given: Roles that the caller brings himself.
    """
    for role, named in plan.data.items():
        if role not in given:
            yield from _at(role, named.faults(plan.root))
    if EVALUATE not in given:
        yield from _evaluation_faults(plan)


def asked_faults(plan: Plan, start: State, given: frozenset[str]) -> Iterator[Fault]:
    """What cannot be chosen by the original, or written by it, and what is not to be.

    Args:
        start: What is known of the original.
        given: Roles that the caller brings himself.
    """
    for role, named in plan.data.items():
        if role not in given and isinstance(named, TextSource):
            yield from _at(role, _asked_faults(plan, role, named, start))


def _at(role: str, messages: Iterable[str]) -> Iterator[Fault]:
    return (Fault(("data", role), f"data.{role}: {message}") for message in messages)


def _asked_faults(plan: Plan, role: str, source: TextSource, start: State) -> Iterator[str]:
    written = isinstance(source, SynthesizeData)
    if role == EVALUATE:
        if source.select is not None:
            yield "select: what is scored on is not chosen: scores on chosen text say nothing of the rest; leave it out"
        if written:
            yield "synthesize: a score on text by the original proves nothing; {text: file} would do"
    elif written or (source.select is not None and source.select.asks_original):
        yield from _original_faults(plan, source, written, start)


def _original_faults(plan: Plan, source: TextSource, written: bool, start: State) -> Iterator[str]:
    """Whether the original can be asked, within the plan's memory."""
    if start.form is None:
        return
    if start.form != LANGUAGE:
        asked = "synthesize: it writes the text" if written else "select: quality: loss and vectors: hidden ask it"
        cure = "{text: file} would do" if written else "quality: text and vectors: words would do"
        yield f"{asked}, and the original is none of the {models_that_give(TOKENS)}; {cure}"
    elif written and start.model is not None and plan.memory_bytes is not None:
        takes = PROCESS_BYTES + writing_bytes(in_shards(start.model), TOGETHER, source.length)
        if takes > plan.memory_bytes:
            what = f"the original writes with all weights in memory, {size(takes)} in all"
            yield f"synthesize: {what}; memory: {size(plan.memory_bytes)} is allowed: {{text: file}} would do"


def _evaluation_faults(plan: Plan) -> Iterator[Fault]:
    measured = [metric.name for metric in plan.metrics if EVALUATE in metric.reads()]
    if measured and EVALUATE not in plan.data:
        need = f"{', '.join(measured)} need{'s' * (len(measured) == 1)}"
        yield Fault(("data",), f"data.evaluate is missing; {need} something to measure on")
    source = plan.data.get(EVALUATE)
    if source is not None and not source.has_labels():
        for metric in plan.metrics:
            if EVALUATE in metric.reads() and metric.needs_labels:
                yield Fault(
                    ("metrics",), f"{metric.name} needs labels, which data.evaluate has not; kl and flips do not"
                )
