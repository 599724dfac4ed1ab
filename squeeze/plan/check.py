"""Do the parts of a plan fit together? Found without loading weights, all at once.

form       each pass takes the form that the one before it gives
order      a pass that refuses a quantized model comes before the one that quantizes
needs      calibration and training data are named where a pass asks for them
selectors  include / exclude match layers of this very model, built on the meta device
data       files exist, labels are there for metrics that need them
extras     optional packages are installed
targets    each is given the form that it packs
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from squeeze.data.base import Dataset
from squeeze.errors import Fault, SqueezeError
from squeeze.evaluate.fit import misfit
from squeeze.models.base import ADAPTER, Batch, Model
from squeeze.models.language.artifact import LanguageArtifact
from squeeze.models.spec import Shapes
from squeeze.passes.base import Preview
from squeeze.passes.effort import Work
from squeeze.plan.behind import float_tables, untrained
from squeeze.plan.cost import Cost, Explained, cost_of, disk_faults, linked_bytes
from squeeze.plan.data_faults import asked_faults, data_faults
from squeeze.plan.devices import fit_on_device
from squeeze.plan.document import Place
from squeeze.plan.duration import UNKNOWN, Effort, scoring_of, work_of
from squeeze.plan.extras import absent
from squeeze.plan.memory import (
    OriginalSize,
    memory_of,
    original_size,
    scoring_faults,
    too_little_memory,
    too_little_to_write,
    writing_of,
)
from squeeze.plan.metric_faults import metric_faults, unknown_faults
from squeeze.plan.not_run import not_run_here, strict_faults
from squeeze.plan.plan import Branch, Plan, Step
from squeeze.plan.state import Done, State, done_with, misfit_of, misfit_of_target, unused_options
from squeeze.plan.step_faults import step_faults

CONFIG = "config.json"


@dataclass
class Check:
    """The faults of a plan, and what its passes are expected to do."""

    faults: list[Fault] = field(default_factory=list)
    warnings: list[Fault] = field(default_factory=list)  # probably unintended, but not a fault
    original: Preview | None = None
    explained: list[Explained] = field(default_factory=list)
    original_size: OriginalSize | None = None  # only for a language model
    cost: Cost | None = None  # cost of the whole run
    writing: dict[str, int] = field(default_factory=dict)  # memory that it takes to write a target's files, by name
    fits: list[str] = field(default_factory=list)  # lines about targets that name a device
    effort: Effort = UNKNOWN  # of the original: scoring alone
    evaluated: Dataset | None = None  # the plan's evaluation data, where it can be opened
    own: dict[str, Dataset] = field(default_factory=dict)  # by a metric's label, the data that it brings
    done: set[Done] = field(default_factory=set)  # every pass with all before it, however many branches have it

    @property
    def efforts(self) -> list[Effort]:
        """Of all rows, the original's first; a target's own row is the same file again, and takes none."""
        return [self.effort, *(row.effort for row in self.once)]

    @property
    def once(self) -> list[Explained]:
        """The passes that will run: what branches have in common runs for the first of them."""
        return [row for row in self.explained if not row.again]


def check(plan: Plan, given_roles: frozenset[str] = frozenset(), model: Model | None = None) -> Check:
    """Check a plan; ``given_roles`` and ``model`` are what the caller brings himself."""
    result = Check()
    if not plan.steps and not plan.branches:
        result.faults.append(Fault(("passes",), "the plan has no passes; a list under passes: would say what to do"))
    result.faults += data_faults(plan, given_roles)
    start = _start(plan, model, given_roles, result)
    result.faults += asked_faults(plan, start, given_roles)
    result.faults += metric_faults(plan, start.form, start.model, given_roles)
    result.faults += scoring_faults(plan, start.model)
    result.warnings += untrained(plan)
    result.original_size = original_size(plan, start.model)
    result.faults += unknown_faults(plan, start.model)
    trunk, files = _walk(plan, plan.steps, None, start, given_roles, result), dict[Place, int]()
    for branch in plan.branches:
        end = _walk(plan, branch.steps, branch, _fork(trunk), given_roles, result)
        faults = list(_target_faults(branch, end))
        result.faults += [*faults, *strict_faults(plan, branch)]
        result.warnings += not_run_here(branch)
        too_large, fits = fit_on_device(plan, branch, end)
        result.faults += too_large
        result.fits += fits
        if not faults and (takes := writing_of(branch, end.model, end.preview)) is not None:
            result.writing[branch.name] = takes
            result.faults += too_little_to_write(plan, branch, takes)
        if branch.target is not None and end.preview and end.form != LanguageArtifact.form:  # else it is linked
            files[branch.place] = end.preview.nbytes
    result.cost = cost_of(plan, start.model, result.explained, [*result.writing.values()], files)
    result.faults += disk_faults(plan, result.cost)
    return result


def _start(plan: Plan, model: Model | None, roles: frozenset[str], result: Check) -> State:
    """The original's outline, or the form alone where it cannot be built."""
    try:
        unknown = State(_named_form(plan), {}, None, None)
        if plan.model is not None and model is None:
            plan.model.folder(plan.root)  # fetched first: the data needs its tokenizer
    except SqueezeError as error:
        result.faults.append(Fault(("model",), str(error)))
        return State(None, {}, None, None)
    try:
        result.evaluated = None if "evaluate" in roles else evaluation_data(plan)
        example = _first(result.evaluated)
    except SqueezeError as error:
        result.faults.append(Fault(("data", "evaluate"), f"data.evaluate: {error}"))
        return unknown
    if example is None and any(fault.path == ("data", "evaluate") for fault in result.faults):
        return unknown  # reported already; the model's inputs may depend on it
    try:
        outline = _outline(plan, example) if model is None else model.outline()
        macs = outline.macs()
    except SqueezeError as error:
        result.faults.append(Fault(("model",), str(error)))
        return unknown
    if example is not None and (message := misfit(outline.inputs, example)):
        result.faults.append(Fault(("data", "evaluate"), f"data.evaluate: {message}"))
    if outline.reads_tokens():
        _open_own(plan, result)
    grid = outline.grid_kinds()
    scoring = scoring_of(plan, outline.form, outline, result.evaluated, result.own, original=True)
    result.effort = Effort(Work(), scoring)
    result.original = Preview((), outline.parameters(), outline.nbytes(), macs, grid=grid)
    marks: dict[str, Step | None] = dict.fromkeys(outline.marks())
    return State(outline.form, marks, outline, result.original)


def _named_form(plan: Plan) -> str | None:
    """The form of a model that cannot be built, as far as the plan and a config.json say it."""
    if plan.model is None or plan.model.of_hub(plan.root):
        return None
    if plan.model.kind == "hf" and not (plan.root / plan.model.reference / CONFIG).is_file():
        return None
    if plan.model.kind == "onnx":
        return "onnx"
    return "language" if plan.model.is_language(plan.root) else "torch"


def _outline(plan: Plan, example: Batch | None) -> Model:
    if plan.model is None:
        raise SqueezeError("the plan names no model; model: {hf: ./folder} would")
    return plan.model.outline(plan.root, _shapes(example))


def example_shapes(plan: Plan) -> Shapes | None:
    """The shape of one example by the data's names, as far as the plan's model or evaluation data says it."""
    if plan.model and plan.model.input:
        return {"image": plan.model.input}
    if plan.model and plan.model.is_language(plan.root):
        return None  # it reads tokens, however many, and cutting a text for their number takes seconds
    return _shapes(_first(evaluation_data(plan)))


def _shapes(example: Batch | None) -> Shapes | None:
    return None if example is None else {name: tuple(value.shape[1:]) for name, value in example.inputs.items()}


def evaluation_data(plan: Plan) -> Dataset | None:
    """The plan's evaluation data, where it names some that is there."""
    source = plan.data.get("evaluate")
    if source is None or source.asks_original or any(source.faults(plan.root)):
        return None
    return plan.open_data("evaluate")


def _open_own(plan: Plan, result: Check) -> None:
    """Open the data that metrics bring, as far as it is there."""
    for index, metric in enumerate(plan.metrics):
        source = metric.own_data()
        if source is None or any(source.faults(plan.root)):
            continue
        try:
            result.own[metric.label] = plan.open_own(source)
        except SqueezeError as error:
            result.faults.append(Fault(("metrics", index), str(error)))


def _first(data: Dataset | None) -> Batch | None:
    return None if data is None else data.batch(np.arange(1))


def _fork(state: State) -> State:
    """A copy of the state for one branch: previews may change the outline in place."""
    model = state.model.copied() if state.model is not None else None
    return replace(state, marks=dict(state.marks), model=model)


def _walk(
    plan: Plan, steps: tuple[Step, ...], branch: Branch | None, state: State, roles: frozenset[str], result: Check
) -> State:
    for step in steps:
        done = done_with(step, state.done)
        faults = [Fault(step.place, message) for message in step_faults(plan, step, branch, state, roles)]
        if misfit_of(step.pass_, state) is None:
            faults += unused_options(step.pass_, step.place, state, step.pass_.name)
        result.faults += faults
        if state.model is not None and not faults:
            warnings = step.pass_.warnings(state.model)
            result.warnings += [Fault(step.place, f"{step.pass_.name}: {message}") for message in warnings]
        takes = work = preview = None
        if not faults:  # what it takes first: a preview may make the outline the result's
            takes = memory_of(plan, step, state.model, state.preview.nbytes if state.preview else None)
            work, preview = work_of(plan, step, state.model), _previewed(step, state)
        if preview and state.model is not None:
            result.warnings += [Fault(step.place, line) for line in float_tables(step.pass_, state.model, preview)]
        if preview:
            explained = _explained(step, branch, state, preview)
            effort = Effort(work, scoring_of(plan, explained.gives, state.model, result.evaluated, result.own))
            again = done in result.done
            linked = linked_bytes(plan, step, state.model, preview, begins=not state.done)
            row = replace(
                explained, memory_bytes=takes, effort=effort, place=step.place, again=again, linked_bytes=linked
            )
            result.explained.append(row)
            result.done.add(done)
            result.faults += too_little_memory(plan, step, state.model, takes)
        marks = state.marks | dict.fromkeys(step.pass_.left(), step)
        output = step.pass_.gives(state.form) if state.form else None
        form = output.form if output else step.pass_.ways[0][1].form
        maker = state.maker if form == state.form else step
        state = State(form, marks, state.model if output else None, preview, maker, done)
    return state


def _previewed(step: Step, state: State) -> Preview | None:
    if state.model is None or state.preview is None:
        return state.preview
    return step.pass_.preview(state.model, state.preview)


def _explained(step: Step, branch: Branch | None, state: State, preview: Preview) -> Explained:
    pass_ = step.pass_
    needs = tuple(sorted(pass_.needed()))
    name = branch.name if branch else None
    assert state.form is not None, "only a model that is known is previewed"
    output = pass_.gives(state.form)
    assert output is not None, "only a pass that fits is previewed"
    keeps = pass_.keeps(state.model) if state.model is not None else None
    return Explained(pass_.name, name, state.form, output.form, preview, needs, pass_.extra, keeps=keeps)


def _target_faults(branch: Branch, end: State) -> Iterator[Fault]:
    if branch.target is None:
        return
    if message := misfit_of_target(branch.target, branch.name, end):
        yield Fault(branch.place, message)
        return
    if ADAPTER in end.marks and (fault := branch.target.adapter_fault()):
        yield Fault(branch.place, f"target {branch.name}: {fault}")
    yield from (Fault(branch.place, message) for message in absent(f"target {branch.name}", branch.target.extras()))
    if end.model is not None:
        messages = list(branch.target.faults(end.model))
        messages += branch.target.grid_faults(end.preview.grid, end.model) if end.preview else ()
        yield from (Fault(branch.place, f"target {branch.name}: {message}") for message in messages)
        yield from unused_options(branch.target, branch.place, end, f"target {branch.name}")
