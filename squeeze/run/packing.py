"""From the end of a branch to a verified package: the artifact that is scored is the file that is packed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from squeeze.data.base import Dataset
from squeeze.errors import VerifyError
from squeeze.ledger import Ledger
from squeeze.models.artifact import artifact_of
from squeeze.models.base import Model
from squeeze.plan.plan import Branch, Plan
from squeeze.report import shape, text
from squeeze.run.disk_limit import recomputable
from squeeze.run.lender import SELECTED
from squeeze.run.stored import StoredModel, read_model, write_model
from squeeze.store import Store
from squeeze.targets.base import Packed, Target
from squeeze.targets.card import Score
from squeeze.targets.host import host
from squeeze.targets.package import PackageInputs, ledger_and_plan
from squeeze.targets.verify import open_package, verify
from squeeze.versions import library_versions, source_digest, squeeze_version
from squeeze.work import temporary_folder

TARGET = "target"  # what the store calls an artifact


def build_artifact(target: Target[Any], end: StoredModel, store: Store, code_folder: str, branch: str) -> StoredModel:
    """What the target's runtime loads, in the store like any other step."""

    def write(folder: Path) -> None:
        source = end.with_weights()
        what = f"{branch}: write the file for {target.name}"
        store.progress.say(what)
        with temporary_folder("target") as work, store.progress.during(what):
            built = target.build(source.model, work)
            write_model(folder, built, target.built_facts(source.model, built), {})

    read = partial(read_model, code_folder=code_folder)
    built = store.cached(TARGET, artifact_inputs(target, end.key), write, read, f"target {target.name}")
    return recomputable(built, store, partial(build_artifact, target, end, store, code_folder, branch))


def artifact_inputs(target: Target[Any], before: str) -> dict[str, Any]:
    """What decides the artifact, for the store's key; ``before`` is the key of the branch's last model."""
    return {
        "before": before,
        "target": target.name,
        "options": target.options(),
        "code": source_digest(type(target)),
    }


def pack(target: Target[Any], artifact: StoredModel, end: StoredModel, inputs: PackageInputs, path: Path) -> Packed:
    """Write the package of a branch and verify it; then it appears. ``end`` is what the artifact was built from.

    Of files that were released since they were packed, the package that is there is verified again.
    """
    if artifact.is_released and (packed := _packed_before(path, inputs)) is not None:
        return packed
    path.parent.mkdir(parents=True, exist_ok=True)
    return target.pack_built(artifact_of(artifact.with_weights().model), inputs, path, end.with_weights().model)


def _packed_before(path: Path, inputs: PackageInputs) -> Packed | None:
    """The package at that path where it tells of the very same plan and rows; None: it is gone, or another."""
    try:
        package = open_package(path)
        if any((package.folder / name).read_bytes() != text for name, text in ledger_and_plan(inputs).items()):
            return None
        return Packed(path, package.manifest.digest, verify(package))
    except (VerifyError, OSError):
        return None


def package_inputs(plan: Plan, branch: Branch, ledger: Ledger, original: Model, data: Dataset | None) -> PackageInputs:
    """What a run knows and a package tells."""
    return PackageInputs(
        name=f"{plan.name}-{branch.name}",
        golden=original.task.golden(original),
        plan=plan.resolved(),
        ledger=ledger.to_json(timings=False),
        measurements=_measurements(ledger),
        labels=original.class_names() or (data.classes if data is not None else None),
        preprocessing=_preprocessing(original, data),
        beside=data.packaged_files() if data is not None and _knows_tokens(original) else {},
        provenance={
            "squeeze": squeeze_version(),
            "versions": library_versions(),
            "original": ledger.original.key,
            "evaluated_on": ledger.to_json(timings=False)["scored_on"],
            "seed": plan.seed,
            **(plan.model.origin(plan.root) if plan.model else {}),
            **{name: fact for name, fact in ledger.original.facts.items() if name.startswith(SELECTED)},
        },
        scores=list(_card_scores(ledger)),
    )


def _preprocessing(original: Model, data: Dataset | None) -> dict[str, Any]:
    """How the packaged script prepares an input."""
    if data is None:
        return {}
    return data.packaged() if _knows_tokens(original) else data.preprocessing()


def _knows_tokens(original: Model) -> bool:
    """Whether the data's tokenizer is known to be the model's."""
    return original.vocabulary is not None


def _measurements(ledger: Ledger) -> dict[str, Any]:
    rows = [row.to_json() for row in ledger.rows]
    timed = [{"name": row["name"], "timings": row["timings"], "measured": row["measured"]} for row in rows]
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "host": host(), "rows": timed}


def _card_scores(ledger: Ledger) -> Iterator[Score]:
    """Every score of the packed file, worded for the model card."""
    last = shape.Row.model_validate(ledger.rows[-1].to_json())
    for name, score in last.scores.items():
        on = score.scored_on or ledger.scored_on
        first = ledger.original.scores[name].value
        data = f"{on.examples} examples of {on.name}" if on and score.interval else ""
        yield Score(
            metric=text.heading(name),
            value=text.value(score.unit, score.value),
            original=text.value(score.unit, first),
            delta=text.change_text(score.unit, score.to_original),
            verdict=text.verdict(score.unit, score.to_original),
            data=data,
        )
