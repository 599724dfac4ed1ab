"""The straight line: plan -> check -> original -> [ pass -> effect -> score -> row ]* -> pack -> verify -> report.

Every finished pass is in the store before the next begins; the same call goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from squeeze.data.base import Dataset
from squeeze.errors import EffectError, PlanError, SqueezeError, Terminated
from squeeze.evaluate.evidence.base import Sources, Subject
from squeeze.evaluate.fit import require_fit
from squeeze.ledger import Ledger
from squeeze.models.base import Model
from squeeze.passes.base import Context
from squeeze.plan.check import check
from squeeze.plan.plan import Branch, Plan, Step
from squeeze.plan.step_faults import NEED_TO_ROLE
from squeeze.progress import Progress
from squeeze.refused import one_line_if_refused
from squeeze.report.table import row_line
from squeeze.run.clock import RowClock
from squeeze.run.disk_limit import DiskLimit, recomputable
from squeeze.run.effect import SIZE, check_effect, larger_package
from squeeze.run.fitting import fit_line
from squeeze.run.helper import help_unless_leading
from squeeze.run.lender import Lender, selections
from squeeze.run.model_keys import ModelKeys
from squeeze.run.opened import CALIBRATE, Opened, faults_at, in_tokens_of, open_all, require_kinds
from squeeze.run.packing import build_artifact, pack, package_inputs
from squeeze.run.result import Failure, Run, RunFailed
from squeeze.run.scorer import Scorer
from squeeze.run.stored import StoredModel, read_model, write_model
from squeeze.run.team import Team, team_of
from squeeze.run.untouched import untouched
from squeeze.store import Store
from squeeze.targets.base import Target
from squeeze.targets.package import PackageInputs
from squeeze.work import work_within

DEFAULT_STORE = Path(".squeeze/store")


def run(
    plan: Plan,
    *,
    model: Model | None = None,
    data: Mapping[str, Dataset] | None = None,
    out: Path | str | None = None,
    store: Store | Path | str | None = None,
    progress: Progress | None = None,
) -> Run:
    """Carry a plan out: every pass scored, every target packed and verified.

    Args:
        model, data: Stand in for what the plan names; ``data`` by role: evaluate, calibrate, train.
        out: Folder for packages; None: nothing is packed.
        store: Where finished passes lie, so that a run goes on where it stopped; None: ``.squeeze/store``.
        progress: Where to show how far along it is; None: nowhere.

    Raises:
        UsageError: an argument is not of its kind.
        PlanError: the plan is wrong, with every fault; nothing has run.
        RunFailed: a pass failed; the error holds the rows before it, the store what was finished.
    """
    require_kinds(plan, model, data)
    help_unless_leading()
    began = time.monotonic()
    progress, brought = progress or Progress(), dict(data or {})
    checked = check(plan, frozenset(brought), model)
    if checked.faults:
        raise PlanError(plan.located(checked.faults), plan.file)
    torch.set_num_threads(plan.threads)
    store = store if isinstance(store, Store) else Store(Path(store or DEFAULT_STORE), progress)
    with one_line_if_refused(store.folder), store.run() as work, work_within(work), team_of(plan) as team:
        lender = Lender(plan, model, store, progress, checked.evaluated, checked.own)
        opened = open_all(plan, brought, lender)
        opened.warnings[:0] = [warning.at_line() for warning in plan.located(checked.warnings)]
        opened.warnings += team.warnings
        line = Line(plan, store, progress, opened, lender, RowClock(checked, store, plan.threads), team)
        try:
            line.carry_out(Path(out) if out is not None else None)
        finally:
            line.result.settle()
            line.result.cost(began)
        return line.result


class Line:
    """The state of one run: its arguments, and what has been made so far."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        progress: Progress,
        opened: Opened,
        lender: Lender,
        clock: RowClock,
        team: Team,
    ) -> None:
        self.plan, self.store, self.progress, self.clock, self.team = plan, store, progress, clock, team
        self.data = opened.roles
        for warning in opened.warnings:
            progress.say(f"warning: {warning}")
        self.code_folder = str(plan.root)
        model = lender.model  # read out here: a damaged file is no fault of the plan
        for role, data in opened.roles.items():
            with faults_at(plan, "data", role):
                require_fit(model, role, data)
        self.original = lender.original
        self.plan = plan = plan.settled(self.original.model)
        subject = Subject(self.original.key, self.original.model, "original")
        roles = self.data.get("evaluate"), self.data.get("train")
        limited = plan.memory_bytes is not None
        sources = Sources(store, progress, model.task, subject, *roles, opened.own, plan.root, limited)
        self.scorer = Scorer(plan.metrics, sources, self.original)
        self.keys = ModelKeys(plan, store, opened, self.original.key)
        self.result = Run(plan, Ledger(self.scorer.scored_on), store, warnings=opened.warnings)
        self.now: tuple[str, str | None] = ("original", None)  # current step and branch

    def carry_out(self, out: Path | None) -> None:
        """Run all steps; an error carries the results so far."""
        try:
            with one_line_if_refused(self.store.folder):
                self.walk(out)
        except SqueezeError as error:
            self.result.failure = Failure(self.now[0], self.now[1], str(error))
            raise RunFailed(str(error), self.result, error.exit_code) from error
        except (KeyboardInterrupt, Terminated) as stop:
            stop.add_note(f"finished: {', '.join(row.name for row in self.result.ledger.rows) or 'nothing'}")
            raise

    def walk(self, out: Path | None) -> Run:
        """The trunk, then each branch from its end."""
        items = self.keys.schedule()
        self.store.hold(*(key for one in items for key in one.makes))  # also what the run will only come to later
        limit, packs = self.plan.disk_bytes, out is not None
        self.disk = DiskLimit(limit, self.store, items, self.original.key, packs, self.scorer.exact)
        self._add_row(self.original, "original", None, {}, None)
        self.result.ledger.rows[-1].facts.update(selections(self.data))
        self.result.layers["original"] = self.original.model.layers()
        trunk = self._steps(self.plan.steps, None, self.original)
        self._result(None, trunk)
        for branch in self.plan.branches:
            self._branch(branch, trunk, out)
        if not self.plan.branches:
            self._judge(None)
            self.result.layers["result"] = trunk.model.layers()
        return self.result

    def _branch(self, branch: Branch, trunk: StoredModel, out: Path | None) -> None:
        end = self._steps(branch.steps, branch.name, trunk)
        self.result.layers[branch.name] = end.model.layers()
        self._result(branch.name, end)
        if branch.target is not None:
            self.disk.step_done(self._pack(branch, branch.target, end, out))
        self._judge(branch.name)

    def _result(self, branch: str | None, stored: StoredModel) -> None:
        """A model that the run gives, unless it is released before the end."""
        if self.disk.stays(stored):
            self.result.models[branch] = stored.with_weights().model

    def _pack(self, branch: Branch, target: Target[Any], end: StoredModel, out: Path | None) -> StoredModel:
        """Build what the target's runtime loads, score it, pack it."""
        self.now = (target.name, branch.name)
        artifact = build_artifact(target, end, self.store, self.code_folder, branch.name)
        self._add_row(artifact, target.name, branch.name, target.options(), end)
        self._result(branch.name, artifact)
        if target.device is not None:
            before, packed = end.with_weights().model, artifact.with_weights().model
            self.result.ledger.rows[-1].facts["device"] = fit_line(
                target, target.device, self.plan.root, self.original.model, before, packed
            )
        if out is not None:
            path = out / f"{self.plan.name}-{branch.name}.zip"
            with one_line_if_refused(out), self.progress.during(f"pack and verify {path.name}"):
                self.result.packages[branch.name] = pack(target, artifact, end, self._package_inputs(branch), path)
            self.progress.say(f"packed and verified {path}")
            if warning := larger_package(path, branch, self.plan, self.original.model):
                self.result.warnings.append(warning)
                self.progress.say(f"warning: {warning}")
        return artifact

    def _package_inputs(self, branch: Branch) -> PackageInputs:
        """What the run knows and the package tells."""
        ledger = Ledger(self.scorer.scored_on, self.result.ledger.line_of(branch.name))
        ledger = ledger.settled(self.plan.primary, self.plan.equivalence)
        return package_inputs(self.plan, branch, ledger, self.original.model, self.data.get("evaluate"))

    def _steps(self, steps: tuple[Step, ...], branch: str | None, start: StoredModel) -> StoredModel:
        for step in steps:
            self.now = (step.pass_.name, branch)
            result, *again = [self._after(step, start, data) for data in self.keys.calibrations(step)]
            self._add_row(result, step.pass_.name, branch, step.pass_.options(), start, again, step)
            start = self.disk.step_done(result)
        return start

    def _after(self, step: Step, start: StoredModel, calibrate: Dataset | None) -> StoredModel:
        """The model after a pass, calibrated on that: from the store, or by running it."""
        inputs = self.keys.inputs(step, start.key, calibrate)
        key = self.store.key("pass", inputs)

        def write(folder: Path) -> None:
            before = start.with_weights()
            self.progress.say(f"{step.where()}: {step.pass_.name}")
            context = self._context(key, step, calibrate, before)
            with self.clock.passing(key):
                after = step.pass_.once().run(before.fresh(self.code_folder), context)
            promised = step.pass_.gives(before.model.form)
            assert promised is not None, "the plan was checked"
            if not isinstance(after, promised):
                gave, form = type(after).__name__, promised.__name__
                raise EffectError(
                    f"{step.where()}: {step.pass_.name} returned a {gave}; it says that it gives a {form}"
                )
            if SIZE in step.pass_.promises:
                context.facts.update(untouched(before.model, after))
            stored = write_model(folder, after, context.facts, context.measured)
            models = self.original.model, before.model, after
            check_effect(step, models, (before.model_folder, stored), context.facts)

        read = partial(read_model, code_folder=self.code_folder)
        after = self.store.cached("pass", inputs, write, read, step.pass_.name)
        return recomputable(after, self.store, partial(self._after, step, start, calibrate))

    def _context(self, key: str, step: Step, calibrate: Dataset | None, before: StoredModel) -> Context:
        roles = {NEED_TO_ROLE[need] for need in step.pass_.needed() if need in NEED_TO_ROLE}
        data = self.data if calibrate is None else self.data | {CALIBRATE: calibrate}
        data = data | {role: in_tokens_of(before.model, data[role], self.original.model) for role in roles}
        return Context(
            seed=self.plan.seed,
            threads=self.plan.threads,
            calibration_data=data.get(CALIBRATE),
            train_data=data.get("train"),
            original=lambda: self.original.fresh(self.code_folder),
            journal=self.store.journal(key),
            progress=self.progress,
            root=self.plan.root,
            memory_bytes=self.plan.memory_bytes,
            store=self.store,
            original_key=self.original.key,
            helpers=self.team.helpers(step, before, self.original),
        )

    def _add_row(
        self,
        stored: StoredModel,
        name: str,
        branch: str | None,
        options: dict[str, object],
        previous: StoredModel | None,
        again: Sequence[StoredModel] = (),
        step: Step | None = None,
    ) -> None:
        with self.clock.scoring(stored.key):
            self.scorer.measured(stored, name)
        trained = step is not None and step.pass_.trains
        row = self.scorer.row(stored, name, branch, options, previous, again, trained)
        told = self.clock.measured(stored.key, step, previous is None)
        row = replace(row, measured=row.measured | told)
        self.result.ledger.rows.append(row)
        self.progress.say(row_line(row.to_json()))
        for model in (stored, *again):
            model.model.close()
        self.disk.measured(stored, *again)
        self.result.peak_store_bytes = self.disk.peak_bytes

    def _judge(self, branch: str | None) -> None:
        last = self.result.ledger.line_of(branch)[-1]
        self.result.judgements += [(branch, bound.judge(last)) for bound in self.plan.budget]
