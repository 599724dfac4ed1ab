"""A package scored again, on data that a plan names: what ``squeeze verify --data`` does."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from squeeze.algorithms.stats import bootstrap_means, percentile_interval
from squeeze.data.base import Dataset
from squeeze.data.text import TokenDataset
from squeeze.errors import DataError, VerifyError
from squeeze.evaluate.evaluator import labels_of, logits_of
from squeeze.evaluate.metrics import Answers, ExampleMetric
from squeeze.evaluate.tokens import score_tokens
from squeeze.models.language.artifact import LanguageArtifact
from squeeze.plan.plan import Plan
from squeeze.progress import Progress
from squeeze.targets.manifest import LEDGER
from squeeze.targets.verify import Package

NEEDS_ORIGINAL = {"kl", "flips"}  # a package carries no original to compare to
BRING_DATA = {"choice", "choice_norm", "last_word"}  # of a language model; data.evaluate is another's


def rescore(package: Package, plan: Plan, progress: Progress | None = None) -> dict[str, Any]:
    """Every metric that logits and labels alone give, with its interval, beside what the package's ledger says.

    Raises:
        DataError: the plan names no evaluation data.
        VerifyError: on the very data of the ledger, the score lies outside the ledger's interval.
    """
    source = plan.data.get("evaluate")
    if source is None:
        raise DataError(f"{plan.file}: names no data.evaluate to score on")
    data = plan.open_data("evaluate")
    answers, labels = _answers(package, data, progress or Progress()), labels_of(data)
    ledger = yaml.safe_load((package.folder / LEDGER).read_text())
    claimed = ledger["rows"][-1]["scores"] if (ledger["scored_on"] or {}).get("sha256") == data.digest else {}
    scores: dict[str, Any] = {}
    for metric in plan.metrics:
        if isinstance(metric, ExampleMetric) and metric.name not in (*NEEDS_ORIGINAL, *BRING_DATA):
            values = metric.values(answers, labels, answers).astype(float)
            low, high = percentile_interval(metric.shown(bootstrap_means(values[:, None])[:, 0]))
            value = float(metric.shown(values.mean()))
            scores[metric.name] = {"value": value, "interval": (low, high), "unit": metric.unit}
            _compare(package, metric.name, scores[metric.name], claimed.get(metric.name))
    return {"data": data.name, "examples": len(data), "same_data_as_ledger": bool(claimed), "scores": scores}


def _answers(package: Package, data: Dataset, progress: Progress) -> Answers:
    """What the packed model says, in its own runtime."""
    model = package.load_model()
    if not isinstance(model, LanguageArtifact):
        return logits_of(model, data, progress, "score package")
    if not isinstance(data, TokenDataset):
        raise DataError(f"data.evaluate: {data.name}: a language model takes text; {{text: file}} would do")
    with TemporaryDirectory(prefix="squeeze-score-") as folder:
        return score_tokens(model, data, Path(folder), None, progress, "score package")


def _compare(package: Package, metric: str, found: dict[str, Any], claimed: dict[str, Any] | None) -> None:
    if claimed is None:
        return
    found["claimed"] = claimed["value"]
    low, high = claimed["interval"]
    if not low <= found["value"] <= high:
        said = f"{metric} is {found['value']:.4g} on the ledger's own data; the ledger says {claimed['value']:.4g}"
        raise VerifyError(f"{package.path}: {said}, interval {low:.4g} to {high:.4g}")
