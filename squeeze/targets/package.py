"""A package: one zip with a model, how to run it, and the proof of what it is.

The same contents give the same bytes; ``measurements.json``, which a clock wrote, is the one exception and stays
out of the digest. How a package is checked is the business of ``verify``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from squeeze.models.base import Batch
from squeeze.targets.apps import app_files
from squeeze.targets.archive import Source, write_zip
from squeeze.targets.card import Score, model_card
from squeeze.targets.described import Described
from squeeze.targets.manifest import (
    GOLDEN,
    LEDGER,
    MANIFEST,
    MEASUREMENTS,
    PLAN,
    README,
    RUN,
    FileSum,
    Manifest,
    readable_json,
)
from squeeze.targets.script import script


@dataclass(frozen=True)
class PackageInputs:
    """What a run knows and a package tells.

    Args:
        name: What the package is called, in its card and manifest.
        golden: A few examples; the outputs are computed from the packed file itself.
        plan: The resolved plan.
        ledger: The ledger without timings.
        measurements: Timings, host and date; the one part that may differ between equal packages.
        labels: Class names, by class number.
        preprocessing: ``Dataset.preprocessing()``.
        provenance: Versions, the original's digest, licences; no dates and no paths.
        scores: Lines for the model card.
        beside: Files that the script prepares an input with, such as a tokenizer, by name.
    """

    name: str
    golden: Batch
    plan: Mapping[str, Any]
    ledger: Mapping[str, Any]
    measurements: Mapping[str, Any] = field(default_factory=dict)
    labels: Sequence[str] | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    scores: Sequence[Score] = ()
    beside: Mapping[str, bytes] = field(default_factory=dict)


def write_package(inputs: PackageInputs, target: str, artifact: Described, path: Path) -> str:
    """Write the package, whole or not at all, and return its digest."""
    files = _listed_files(inputs, target, artifact)
    manifest = _manifest(inputs, target, artifact, {name: file_sum(source) for name, source in files.items()})
    manifest_bytes = readable_json(manifest.model_dump(mode="json"))
    unlisted = {MANIFEST: manifest_bytes, MEASUREMENTS: readable_json(dict(inputs.measurements))}
    write_zip({**files, **unlisted}, path)
    return manifest.digest


def ledger_and_plan(inputs: PackageInputs) -> dict[str, bytes]:
    """The files that tell what was measured, and by which plan."""
    plan = yaml.safe_dump(dict(inputs.plan), sort_keys=False, allow_unicode=True)
    return {LEDGER: readable_json(dict(inputs.ledger)), PLAN: plan.encode()}


def file_sum(source: Source) -> FileSum:
    """Size and sha256 of a file or of bytes, read piece by piece."""
    if isinstance(source, bytes):
        return FileSum(sha256=hashlib.sha256(source).hexdigest(), size=len(source))
    with source.open("rb") as stream:
        return FileSum(sha256=hashlib.file_digest(stream, "sha256").hexdigest(), size=stream.tell())


def _listed_files(inputs: PackageInputs, target: str, artifact: Described) -> dict[str, Source]:
    """Every file that the manifest lists."""
    texts: dict[str, Source] = {
        GOLDEN: artifact.golden.npz(),
        **ledger_and_plan(inputs),
        RUN: script(artifact.call, artifact.runtime.name, artifact.shows).encode(),
    }
    bare = _manifest(inputs, target, artifact, {})
    apps = app_files(bare)
    texts |= apps
    clashes = {*artifact.files, *inputs.beside} & {*texts, README, MANIFEST, MEASUREMENTS}
    assert not clashes, f"model files may not be called {clashes}"
    size = sum(path.stat().st_size for path in artifact.files.values())
    needs = (*artifact.requirements, *(("tokenizers",) if inputs.beside else ()))
    card = model_card(bare, size, inputs.scores, list(artifact.files), needs, list(apps))
    return {**artifact.files, **inputs.beside, **texts, README: card.encode()}


def _manifest(inputs: PackageInputs, target: str, artifact: Described, sums: dict[str, FileSum]) -> Manifest:
    manifest = Manifest(
        name=inputs.name,
        target=target,
        task=artifact.call,
        task_name=artifact.task_name,
        runtime=artifact.runtime,
        model=artifact.model,
        inputs=tuple(artifact.inputs),
        outputs=tuple(artifact.outputs),
        tolerance=artifact.tolerance,
        preprocessing=dict(inputs.preprocessing),
        labels=None if inputs.labels is None else tuple(inputs.labels),
        parameters=artifact.parameters,
        macs=artifact.macs,
        not_run=artifact.not_run,
        provenance=dict(inputs.provenance),
        files=dict(sorted(sums.items())),
    )
    return manifest.sealed()
