"""What a run leaves to be read: one JSON dict that every report is rendered from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from squeeze.budget import Judgement
from squeeze.run.result import Run
from squeeze.targets.host import host
from squeeze.versions import squeeze_version

SCHEMA = 1


def report_of(run: Run, out: Path) -> dict[str, Any]:
    """The whole run, also one that stopped, as JSON values; paths are relative to ``out``."""
    failure = {"failure": asdict(run.failure)} if run.failure else {}
    return failure | {
        "schema": SCHEMA,
        "name": run.plan.name,
        "squeeze": squeeze_version(),
        "plan": run.plan.resolved(),
        "ledger": run.ledger.to_json(),
        "warnings": run.warnings,
        "judgements": [_judgement(branch, judgement) for branch, judgement in run.judgements],
        "packages": [_package(run, branch, out) for branch in run.packages],
        "layers": {name: [asdict(layer) for layer in layers] for name, layers in run.layers.items()},
        "host": host(),
        "peak_memory_bytes": run.peak_memory_bytes,
        **({"peak_store_bytes": run.peak_store_bytes} if run.peak_store_bytes is not None else {}),
        "seconds": round(run.seconds, 1),
        "store": str(run.store.folder),
    }


def _judgement(branch: str | None, judgement: Judgement) -> dict[str, Any]:
    return {
        "branch": branch,
        "metric": judgement.bound.metric,
        "written": judgement.bound.written,
        "value": judgement.value,
        "interval": judgement.interval,
        "outcome": judgement.outcome,
        "unknown": judgement.unknown,
        "line": judgement.line(),
    }


def _package(run: Run, branch: str, out: Path) -> dict[str, Any]:
    packed = run.packages[branch]
    size = packed.path.stat().st_size
    path = str(packed.path.resolve().relative_to(out.resolve()))
    notes = list(packed.verification.notes)
    return {
        "branch": branch,
        "path": path,
        "digest": packed.digest,
        "size_bytes": size,
        "verified": True,
        "notes": notes,
    }
