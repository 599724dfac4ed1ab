"""A package: one zip with a model, how to run it, and the proof of what it is.

The same contents give the same bytes; ``measurements.json``, which a clock wrote, is the one exception and stays
out of the digest. How a package is checked is the business of ``verify``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import yaml

from squeeze.targets.archive import CHUNK_BYTES, Source, write_zip
from squeeze.targets.card import Score, model_card
from squeeze.targets.golden import Golden
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
    Runtime,
    TensorSpec,
    readable_json,
)


@dataclass(frozen=True)
class Contents:
    """Everything that goes into a package.

    Args:
        name: What the package is called, in its card and manifest.
        target: The target that made it, such as ``"cpu"``.
        model: Name of the file that the runtime loads; one of ``files``.
        files: Model files by their name in the package.
        inputs, outputs: Of the model.
        runtime: What the golden output was computed in.
        golden: An input and what the model makes of it.
        tolerance: How far another host may be from the golden output, as a share of its largest value.
        plan: The resolved plan.
        ledger: The ledger without timings.
        parameters, macs: Of the graph behind the model file.
        measurements: Timings, host and date; the one part that may differ between equal packages.
        labels: Class names, by class number.
        preprocessing: ``Dataset.preprocessing()``.
        provenance: Versions, the original's digest, licences; no dates and no paths.
        scores: Lines for the model card.
    """

    name: str
    target: str
    model: str
    files: Mapping[str, Path]
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    runtime: Runtime
    golden: Golden
    tolerance: float
    plan: Mapping[str, Any]
    ledger: Mapping[str, Any]
    parameters: int
    macs: int
    measurements: Mapping[str, Any] = field(default_factory=dict)
    labels: Sequence[str] | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    scores: Sequence[Score] = ()


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
    made: dict[str, Source] = {
        GOLDEN: contents.golden.npz(),
        LEDGER: readable_json(dict(contents.ledger)),
        PLAN: yaml.safe_dump(dict(contents.plan), sort_keys=False, allow_unicode=True).encode(),
        RUN: resources("squeeze.targets").joinpath("standalone.py").read_bytes(),
    }
    taken = set(contents.files) & {*made, README, MANIFEST, MEASUREMENTS}
    assert not taken, f"model files may not be called {taken}"
    size = sum(path.stat().st_size for path in contents.files.values())
    card = model_card(_manifest(contents, {}), size, contents.scores, list(contents.files))
    return {**contents.files, **made, README: card.encode()}


def _manifest(contents: Contents, sums: dict[str, FileSum]) -> Manifest:
    manifest = Manifest(
        name=contents.name,
        target=contents.target,
        runtime=contents.runtime,
        model=contents.model,
        inputs=tuple(contents.inputs),
        outputs=tuple(contents.outputs),
        tolerance=contents.tolerance,
        preprocessing=dict(contents.preprocessing),
        labels=None if contents.labels is None else tuple(contents.labels),
        parameters=contents.parameters,
        macs=contents.macs,
        provenance=dict(contents.provenance),
        files=dict(sorted(sums.items())),
    )
    return manifest.sealed()
