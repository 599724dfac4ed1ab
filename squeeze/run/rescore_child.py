"""In a confined process: a package's scores on the data of a plan, beside what its ledger says.

Evidence is collected as in a run, from the package's own file in its own runtime. What compares to the original (KL, a
probe) reads the original that the plan names: nothing that travels in the package decides such a score.
"""

from __future__ import annotations

import base64
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from squeeze.errors import VerifyError
from squeeze.evaluate.evaluator import labels_of
from squeeze.evaluate.evidence.base import Answered, Collectors, Estimate, Reading, ScoredOn, Sources, Subject
from squeeze.evaluate.metrics import Metric
from squeeze.evaluate.slack import slack
from squeeze.ledger import Score, measure, scores
from squeeze.models.base import Model
from squeeze.plan.plan import Plan
from squeeze.references import importable
from squeeze.run.claims import Claim, ClaimedLedger, claim, read_ledger
from squeeze.run.scorable import obstacle, open_sources
from squeeze.run.stored import read_model
from squeeze.store import Store
from squeeze.targets.answers import outputs
from squeeze.targets.check import read_manifest
from squeeze.targets.golden import largest_difference, largest_shift
from squeeze.targets.reports import child_progress
from squeeze.targets.verify import Package

GOLDEN_TIMES = 2.0  # the largest shift of all outputs, relative to that of the few golden ones
NOTHING = "its evidence says nothing of one model alone"


@dataclass(frozen=True)
class Check:
    """One package beside one plan.

    Args:
        no_original: Why there is no original to compare to; None: there is one, or no metric needs it.
        shift: How far this host's outputs may be from those of the host that packed; 0: the golden ones are equal.
    """

    package: Package
    plan: Plan
    model: Model
    sources: Sources
    no_original: str | None
    shift: float

    def obstacle(self, metric: Metric) -> str | None:
        """Why a metric cannot be scored; None: it can."""
        if metric.needs_original and self.no_original:
            return self.no_original
        return obstacle(self.plan, metric, self.model, self.sources)


def pickled(plan: Plan) -> str:
    """A plan for :func:`scores_in_child`, by the process that asks."""
    return base64.b64encode(pickle.dumps(plan)).decode()


def scores_in_child(
    path: str, folder: str, root: str, plan: str, store: str, original: str | None, reason: str | None, **_scratch: str
) -> dict[str, Any]:
    """Every metric of the plan that an opened package can be scored by.

    Args:
        root: The plan's folder, where modules that it names may lie.
        plan: What :func:`pickled` made of it.
        original: The store's entry that holds the original.
        reason: Why there is none.

    Raises:
        VerifyError: the ledger is none, or on its very data a score is another one.
    """
    with importable(root):
        opened_plan: Plan = pickle.loads(base64.b64decode(plan))
    torch.set_num_threads(opened_plan.threads)
    package = Package(Path(path), Path(folder), read_manifest(Path(path), Path(folder)))
    ledger, model, progress = read_ledger(package), package.load_model(), child_progress()
    subject = _original(Path(original), root) if original else None
    sources = open_sources(opened_plan, model.task, subject, Store(Path(store), progress), progress)
    return _beside_ledger(Check(package, opened_plan, model, sources, reason, _shift(package)), ledger)


def _shift(package: Package) -> float:
    """Twice what the golden outputs differ by, in the outputs' own unit: other inputs may differ by more."""
    golden, manifest, where = package.golden(), package.manifest, str(package.path)
    answers = outputs(package.folder / manifest.model, manifest.task, manifest.runtime.name, golden, where)
    if set(golden.outputs) - set(answers) or not largest_difference(golden.outputs, answers) <= manifest.tolerance:
        raise VerifyError(
            f"{where}: golden output differs by more than the manifest allows; squeeze verify says how far"
        )
    return GOLDEN_TIMES * largest_shift(golden.outputs, answers)


def _original(entry: Path, root: str) -> Subject:
    stored = read_model(entry, root)
    return Subject(stored.key, stored.model, "original")


def _beside_ledger(check: Check, ledger: ClaimedLedger) -> dict[str, Any]:
    """Scores, what could not be scored, and what could not be compared, each by name with its reason."""
    data, obstacles = check.sources.evaluate, {m.label: check.obstacle(m) for m in check.plan.metrics}
    metrics = [metric for metric in check.plan.metrics if obstacles[metric.label] is None]
    scores_of, readings = _scores(check, metrics)
    not_compared: dict[str, str] = {}
    obstacles |= {metric.label: NOTHING for metric in metrics if metric.label not in scores_of}
    listed: dict[str, Any] = {}
    for metric in (metric for metric in metrics if metric.label in scores_of):
        score, claimed = scores_of[metric.label], claim(ledger, metric.label)
        listed[metric.label] = {"value": score.value, "interval": score.interval, "unit": score.unit}
        reason = _incomparable(check, metric, score, claimed, ledger)
        if reason is not None:
            not_compared[metric.label] = reason
        elif claimed is not None and score.value is not None:
            answers = readings[metric.label]
            listed[metric.label] |= _compared(check, metric, score.value, claimed, answers)
    scored_on = ScoredOn.of(data) if data is not None else None
    return {
        "data": scored_on.name if scored_on else None,
        "examples": scored_on.examples if scored_on else None,
        "same_data_as_ledger": _sha256(ledger) == (scored_on.sha256 if scored_on else None),
        "outputs_differ_by": check.shift,
        "scores": listed,
        "not_scored": {label: reason for label, reason in obstacles.items() if reason is not None},
        "not_compared": not_compared,
    }


def _scores(check: Check, metrics: list[Metric]) -> tuple[Mapping[str, Score], Mapping[str, Reading]]:
    """As in a row of the ledger, without deltas, and what they were worked out from."""
    data, original = check.sources.evaluate, check.sources.original
    collectors, on = Collectors(metrics, check.sources), ScoredOn.of(data) if data is not None else None
    readings = collectors.readings(Subject(check.package.manifest.digest, check.model, "package"))
    new = measure(readings, on)
    old = new if original is None else measure(collectors.readings(original), on)
    return scores(metrics, labels_of(data) if data is not None else None, new, old, None), readings


def _incomparable(
    check: Check, metric: Metric, score: Score, claimed: Claim | None, ledger: ClaimedLedger
) -> str | None:
    """Why a score and the ledger's are not held against each other; None: they are about the same thing."""
    if claimed is None:
        return "the ledger does not say it"
    data, original = check.sources.evaluate, check.sources.original
    if not score.exact:  # facts of the model need no data
        on = score.scored_on.sha256 if score.scored_on else ScoredOn.of(data).sha256 if data is not None else None
        if on != claimed.sha256:
            return "the ledger's is on other data"
    if metric.needs_original and original is not None and original.key != ledger.rows[0].key:
        return "the plan's original is not the ledger's: other weights, or other versions of code or libraries"
    return None


def _compared(check: Check, metric: Metric, value: float, claimed: Claim, reading: Reading) -> dict[str, Any]:
    """The ledger's value beside this one, equal up to rounding and, on another host, up to what its outputs differ by.

    Raises:
        VerifyError: they differ by more.
    """
    tolerance = metric.tolerance(claimed.value)
    if check.shift:
        tolerance += slack(metric, claimed.value, check.shift, *_evidence(reading))
    if not abs(value - claimed.value) <= tolerance:
        what = f"{metric.label} is {value:.10g}; the ledger says {claimed.value:.10g} of the same data"
        why = f"what outputs that differ by {check.shift:.1g} allow" if check.shift else "rounding"
        raise VerifyError(f"{check.package.path}: {what}; a difference of at most {tolerance:.1g} would be {why}")
    return {"claimed": claimed.value, "tolerance": tolerance}


def _evidence(reading: Reading) -> tuple[Any, int]:
    """The model's answers, where they are kept, and the number of examples."""
    if isinstance(reading, Answered):
        return reading.answers, reading.scored_on.examples
    return None, reading.examples if isinstance(reading, Estimate) else 0


def _sha256(ledger: ClaimedLedger) -> str | None:
    return ledger.scored_on.sha256 if ledger.scored_on else None
