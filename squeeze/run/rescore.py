"""A package scored again, on data that a plan names: what ``squeeze verify --data`` does.

Evidence is collected as in a run, from the package's own file in its own runtime. What compares to the original (KL, a
probe) reads the original that the plan names: nothing that travels in the package decides such a score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from squeeze.data.base import Dataset
from squeeze.errors import DataError, SqueezeError, VerifyError
from squeeze.evaluate.evaluator import labels_of
from squeeze.evaluate.evidence.base import EVALUATE, TRAIN, Collectors, ScoredOn, Sources, Subject
from squeeze.evaluate.evidence.facts import Clock
from squeeze.evaluate.metrics import Metric
from squeeze.ledger import Score, measure, scores
from squeeze.models.base import Model
from squeeze.plan.check import example_shape
from squeeze.plan.forms import FORMS
from squeeze.plan.plan import Plan
from squeeze.progress import Progress
from squeeze.run.claims import Claim, ClaimedLedger, claim, read_ledger
from squeeze.run.opened import own_data
from squeeze.run.original import keep_original, read_original
from squeeze.store import Store
from squeeze.targets.verify import Package
from squeeze.work import temporary_folder

CLOCK = "a time of one host; squeeze bench measures this one's"
NOTHING = "its evidence says nothing of one model alone"


@dataclass(frozen=True)
class Check:
    """One package beside one plan.

    Args:
        original: None where no metric needs it or it cannot be read; ``no_original`` then says why.
    """

    package: Package
    plan: Plan
    model: Model
    sources: Sources
    no_original: str | None

    def obstacle(self, metric: Metric) -> str | None:
        """Why a metric cannot be scored; None: it can."""
        if issubclass(metric.evidence, Clock):
            return CLOCK
        if message := metric.misfit(self.model.task, FORMS[self.model.form]):
            return message
        for role, data in ((EVALUATE, self.sources.evaluate), (TRAIN, self.sources.train)):
            if role in metric.reads() and data is None:
                return f"{self.plan.file} names no data.{role}"
        return self.no_original if metric.needs_original else None


def rescore(
    package: Package, plan: Plan, progress: Progress | None = None, store: Store | None = None
) -> dict[str, Any]:
    """Every metric of the plan that this package can be scored by, beside what the package's ledger says.

    Args:
        store: Where the original and its evidence lie already; None: a temporary one.

    Raises:
        DataError: the plan names no evaluation data, though its metrics need some.
        VerifyError: the ledger is none, or on its very data a score is another one.
    """
    ledger, progress = read_ledger(package), progress or Progress()
    if "evaluate" not in plan.data and any(EVALUATE in metric.reads() for metric in plan.metrics):
        raise DataError(f"{plan.file}: names no data.evaluate to score on")
    torch.set_num_threads(plan.threads)
    with temporary_folder("verify") as folder:
        check = _opened(package, plan, store or Store(folder, progress), progress)
        return _found(check, ledger)


def _opened(package: Package, plan: Plan, store: Store, progress: Progress) -> Check:
    model = package.load_model()
    original, reason = _original(plan, store, progress)
    roles = {role for metric in plan.metrics for role in metric.reads()} & set(plan.data)
    data: dict[str, Dataset] = {role: plan.open_data(role) for role in sorted(roles)}
    found = {m.label: own_data(plan, m, data.get(EVALUATE)) for m in plan.metrics}
    own = {label: one for label, one in found.items() if one is not None}
    opened = data.get(EVALUATE), data.get(TRAIN), own, plan.root
    return Check(package, plan, model, Sources(store, progress, model.task, original, *opened), reason)


def _original(plan: Plan, store: Store, progress: Progress) -> tuple[Subject | None, str | None]:
    """The original that the plan names, where a metric needs it; else why there is none."""
    if not any(metric.needs_original for metric in plan.metrics):
        return None, None
    try:
        model = read_original(plan.model, plan.root, example_shape(plan), store, plan.threads, progress)
        kept = keep_original(model, store, str(plan.root))
    except SqueezeError as error:
        return None, f"it compares to the original, which cannot be read: {error}"
    return Subject(kept.key, kept.model, "original"), None


def _found(check: Check, ledger: ClaimedLedger) -> dict[str, Any]:
    """Scores, what could not be scored, and what could not be compared, each by name with its reason."""
    data, obstacles = check.sources.evaluate, {m.label: check.obstacle(m) for m in check.plan.metrics}
    metrics = [metric for metric in check.plan.metrics if obstacles[metric.label] is None]
    found, not_compared = _scores(check, metrics), {}
    obstacles |= {metric.label: NOTHING for metric in metrics if metric.label not in found}
    listed: dict[str, Any] = {}
    for metric in (metric for metric in metrics if metric.label in found):
        score, claimed = found[metric.label], claim(ledger, metric.label)
        listed[metric.label] = {"value": score.value, "interval": score.interval, "unit": score.unit}
        reason = _incomparable(check, metric, score, claimed, ledger)
        if reason is not None:
            not_compared[metric.label] = reason
        elif claimed is not None and score.value is not None:
            listed[metric.label] |= _compared(check.package, metric, score.value, claimed)
    scored_on = ScoredOn.of(data) if data is not None else None
    return {
        "data": scored_on.name if scored_on else None,
        "examples": scored_on.examples if scored_on else None,
        "same_data_as_ledger": _sha256(ledger) == (scored_on.sha256 if scored_on else None),
        "scores": listed,
        "not_scored": {label: reason for label, reason in obstacles.items() if reason is not None},
        "not_compared": not_compared,
    }


def _scores(check: Check, metrics: list[Metric]) -> Mapping[str, Score]:
    """As in a row of the ledger, without deltas."""
    data, original = check.sources.evaluate, check.sources.original
    collectors, on = Collectors(metrics, check.sources), ScoredOn.of(data) if data is not None else None
    new = measure(collectors.readings(Subject(check.package.manifest.digest, check.model, "package")), on)
    old = new if original is None else measure(collectors.readings(original), on)
    return scores(metrics, labels_of(data) if data is not None else None, new, old, None)


def _incomparable(
    check: Check, metric: Metric, score: Score, claimed: Claim | None, ledger: ClaimedLedger
) -> str | None:
    """Why a score and the ledger's are not held against each other; None: they are about the same thing."""
    if claimed is None:
        return "the ledger does not say it"
    data, original = check.sources.evaluate, check.sources.original
    if not score.exact:  # a fact of the model is on no data
        on = score.scored_on.sha256 if score.scored_on else ScoredOn.of(data).sha256 if data is not None else None
        if on != claimed.sha256:
            return "the ledger's is on other data"
    if metric.needs_original and original is not None and original.key != ledger.rows[0].key:
        return "the plan's original is not the ledger's: other weights, or other versions of code or libraries"
    return None


def _compared(package: Package, metric: Metric, value: float, claimed: Claim) -> dict[str, Any]:
    """The ledger's value beside this one, equal up to rounding.

    Raises:
        VerifyError: they differ by more.
    """
    tolerance = metric.tolerance(claimed.value)
    if not abs(value - claimed.value) <= tolerance:
        what = f"{metric.label} is {value:.10g}; the ledger says {claimed.value:.10g} of the same data"
        raise VerifyError(f"{package.path}: {what}; a difference of at most {tolerance:.1g} would be rounding")
    return {"claimed": claimed.value, "tolerance": tolerance}


def _sha256(ledger: ClaimedLedger) -> str | None:
    return ledger.scored_on.sha256 if ledger.scored_on else None
