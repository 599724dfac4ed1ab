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

from squeeze.targets.archive import CHUNK_BYTES, Source, write_zip
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
class Contents:
    """Everything that goes into a package.

    Args:
        name: What the package is called, in its card and manifest.
        target: The target that made it, such as ``"cpu"``.
        described: The artifact.
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
    target: str
    described: Described
    plan: Mapping[str, Any]
    ledger: Mapping[str, Any]
    measurements: Mapping[str, Any] = field(default_factory=dict)
    labels: Sequence[str] | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    scores: Sequence[Score] = ()
    beside: Mapping[str, bytes] = field(default_factory=dict)


def write_package(contents: Contents, path: Path) -> str:
    """Write the package, whole or not at all, and return its digest."""
    files = _listed_files(contents)
    manifest = _manifest(contents, {name: file_sum(source) for name, source in files.items()})
    manifest_bytes = readable_json(manifest.model_dump(mode="json"))
    unlisted = {MANIFEST: manifest_bytes, MEASUREMENTS: readable_json(dict(contents.measurements))}
    write_zip({**files, **unlisted}, path)
    return manifest.digest


def file_sum(source: Source) -> FileSum:
    """Size and sha256 of a file or of bytes, read piece by piece."""
    total, size = hashlib.sha256(), 0
    if isinstance(source, bytes):
        return FileSum(sha256=hashlib.sha256(source).hexdigest(), size=len(source))
    with source.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            total.update(chunk)
            size += len(chunk)
    return FileSum(sha256=total.hexdigest(), size=size)


def _listed_files(contents: Contents) -> dict[str, Source]:
    """Every file that the manifest lists."""
    description = contents.described
    made: dict[str, Source] = {
        GOLDEN: description.golden.npz(),
        LEDGER: readable_json(dict(contents.ledger)),
        PLAN: yaml.safe_dump(dict(contents.plan), sort_keys=False, allow_unicode=True).encode(),
        RUN: script(description.call, description.runtime.name, description.shows).encode(),
    }
    taken = {*description.files, *contents.beside} & {*made, README, MANIFEST, MEASUREMENTS}
    assert not taken, f"model files may not be called {taken}"
    size = sum(path.stat().st_size for path in description.files.values())
    needs = (*description.requirements, *(("tokenizers",) if contents.beside else ()))
    card = model_card(_manifest(contents, {}), size, contents.scores, list(description.files), needs)
    return {**description.files, **contents.beside, **made, README: card.encode()}


def _manifest(contents: Contents, sums: dict[str, FileSum]) -> Manifest:
    description = contents.described
    manifest = Manifest(
        name=contents.name,
        target=contents.target,
        task=description.call,
        task_name=description.task_name,
        runtime=description.runtime,
        model=description.model,
        inputs=tuple(description.inputs),
        outputs=tuple(description.outputs),
        tolerance=description.tolerance,
        preprocessing=dict(contents.preprocessing),
        labels=None if contents.labels is None else tuple(contents.labels),
        parameters=description.parameters,
        macs=description.macs,
        provenance=dict(contents.provenance),
        files=dict(sorted(sums.items())),
    )
    return manifest.sealed()
