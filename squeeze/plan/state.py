"""What is known of the model at one point of a plan, and how it fits what a pass or a target takes there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from squeeze import registry
from squeeze.errors import Fault
from squeeze.models.base import Model
from squeeze.models.options import Options
from squeeze.passes.base import Preview
from squeeze.plan.document import Place
from squeeze.plan.forms import FORMS
from squeeze.plan.options import unused_faults
from squeeze.plan.plan import AnyPass, Step
from squeeze.targets.base import Target

Done = tuple[str, ...]  # names and options of all passes so far, as JSON texts


def done_with(step: Step, before: Done) -> Done:
    """The passes behind a model, of which equal ones make equal models."""
    return (*before, json.dumps([step.pass_.name, step.pass_.options()], sort_keys=True))


@dataclass
class State:
    """What is known of the model at one point of the plan."""

    form: str | None  # None: not known
    marks: dict[str, Step | None]  # marks on the weights and the step that set each; None: set in the original
    model: Model | None  # the outline; None where it could not be built
    preview: Preview | None
    maker: Step | None = None  # the step that gave the model this form; None: the original's form
    done: Done = ()


def form_names(forms: list[str]) -> str:
    """Forms as readers call them."""
    return " or ".join(FORMS[form] for form in forms)


def misfit_of(pass_: AnyPass, state: State) -> str | None:
    """Why a pass does not take the model that it is given; None: it does, or what it is given is not known."""
    if state.form is None or pass_.gives(state.form) is not None:
        return None
    forms = [form.form for form, _ in pass_.ways]
    return f"{pass_.name} takes {form_names(forms)} and is given {FORMS[state.form]}{bridge(forms, state)}"


def misfit_of_target(target: Target[Any], name: str, state: State) -> str | None:
    """The same of a target, and what would pack such a model."""
    forms = [form.form for form in target.takes]
    if state.form is None or state.form in forms:
        return None
    message = f"target {name} packs {form_names(forms)} and is given {FORMS[state.form]}"
    if export_makes(forms, state.form):
        return f"{message}; passes: [{{pass: export_onnx}}] under it would make one"
    takers = [name for name in registry.BUILTIN["targets"] if _packs(name, state.form)]
    return f"{message}, which {' or '.join(takers) or 'no target'} packs; leave it out"


def _packs(target: str, form: str) -> bool:
    """Whether a built-in target packs a model in that form, or what its export is."""
    forms = [source.form for source in registry.load("targets", target).takes]
    return form in forms or export_makes(forms, form)


def bridge(forms: list[str], state: State) -> str:
    """What would be right where a pass is given a form that it does not take."""
    if state.form is not None and export_makes(forms, state.form):
        return "; put export_onnx before it"
    if state.maker is None:
        return ", with which the plan starts; leave it out"
    at = f" (line {state.maker.line})" if state.maker.line else ""
    return f"; it must come before {state.maker.pass_.name}{at}"


def export_makes(forms: list[str], form: str) -> bool:
    """Whether an export of a model in that form is among ``forms``."""
    exported = registry.load("passes", "export_onnx").gives(form)
    return exported is not None and exported.form in forms


def unused_options(options: Options, place: Place, state: State, what: str) -> Iterator[Fault]:
    """Options that are set and do nothing; where the model is of no use to their owner, that is said already."""
    if state.model is not None:
        yield from unused_faults(options, place, state.model, state.preview.grid if state.preview else None, what)
