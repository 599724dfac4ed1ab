"""This host as a profile that a plan's ``device:`` takes: every figure measured here, with versions and date."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from squeeze.measure import formats, memory
from squeeze.measure.formats import Point
from squeeze.progress import Progress
from squeeze.targets.host import host
from squeeze.versions import squeeze_version

DIGITS = 4  # of a figure
HEAD = "# A device profile, written by squeeze bench --profile: target: {..., device: ./THIS-FILE.yaml} names it.\n"


def measure_profile(
    threads: int,
    seconds: float,
    names: Sequence[str] | None = None,
    progress: Progress | None = None,
    points: Callable[[str, int], list[Point]] = formats.points,
) -> dict[str, Any]:
    """The profile of this host as plain values.

    Args:
        threads: That runtimes will use.
        seconds: How long to measure each layer.
        names: Formats; None: all whose runtime is installed.
        points: Which layers are timed of a format.

    Raises:
        ModelError: a runtime does not take a layer, or no time was seen to go.
    """
    progress, here, names = progress or Progress(), host(), names or formats.formats()
    progress.say(f"measuring this host with {threads} thread{'s' * (threads > 1)}: memory, then {', '.join(names)}")
    sizes, per_s = memory.read_speeds(threads, seconds)
    measured = {name: _measured(name, points(name, threads), threads, seconds, progress) for name in names}
    products = measured[names[0]]["rates"]
    how = f"{_how(names[0])}, {threads} thread{'s' * (threads > 1)}"
    peak = "the fastest matrix product"
    return {
        "title": f"{here['processor']}, {here['usable_cores']} cores"[:100],
        "storage_bytes": _figure(memory.free_storage(Path.cwd()), f"{how}: free on the disk of the working folder"),
        "memory_bytes": _figure(memory.available_memory(), f"{how}: available to programs"),
        "cores": _figure(threads, f"{how}: the threads that were measured"),
        "bandwidth_bytes_per_s": _figure(per_s[-1], f"{how}: {sizes[-1] / 1e6:,.0f} MB read from end to end"),
        "int8_macs_per_s": _figure(_fastest(products["matmul int8"]), f"{how}: {peak}"),
        "float_macs_per_s": _figure(_fastest(products["matmul float"]), f"{how}: {peak}"),
        "read_bytes_per_s": {"sizes": list(sizes), "per_s": [_short(value) for value in per_s]},
        "measured": measured,
    }


def as_yaml(profile: dict[str, Any]) -> str:
    """The file, lists on one line each."""
    return HEAD + yaml.safe_dump(profile, sort_keys=False, default_flow_style=None, width=1000, allow_unicode=True)


def _measured(name: str, points: Sequence[Point], threads: int, seconds: float, progress: Progress) -> dict[str, Any]:
    timed = {(point.name, point.size): point for point in points}
    rates = {key: point.per_s(seconds) for key, point in progress.track(list(timed.items()), f"layers as {name}")}
    return {
        "source": _how(name),
        "threads": threads,
        "call_s": _short(formats.call_seconds(name, threads, seconds)),
        "rates": {kind: _table(kind, rates) for kind in _kinds(timed.values(), 2)},
        "elements": {kind: _list(kind, rates) for kind in _kinds(timed.values(), 1)},
    }


def _kinds(points: Any, dimensions: int) -> list[str]:
    return list(dict.fromkeys(point.name for point in points if len(point.size) == dimensions))


def _table(kind: str, rates: dict[tuple[str, tuple[int, ...]], float]) -> dict[str, Any]:
    own = {size: rate for (name, size), rate in rates.items() if name == kind}
    channels, places = sorted({size[0] for size in own}), sorted({size[1] for size in own})
    rows = [[_short(own[c, p]) if (c, p) in own else None for p in places] for c in channels]
    return {"channels": channels, "places": places, "macs_per_s": rows}


def _list(kind: str, rates: dict[tuple[str, tuple[int, ...]], float]) -> dict[str, Any]:
    own = {size[0]: rate for (name, size), rate in rates.items() if name == kind}
    return {"sizes": list(own), "per_s": [_short(rate) for rate in own.values()]}


def _fastest(table: dict[str, Any]) -> float:
    return float(max(rate for row in table["macs_per_s"] for rate in row if rate))


def _figure(value: float, source: str) -> dict[str, Any]:
    return {"value": _short(value), "source": source}


def _how(name: str) -> str:
    """Who measured, when, with which versions."""
    runtime, date = formats.runtime_of(name), datetime.now(UTC).date().isoformat()
    versions = f"{runtime.name} {runtime.version()}, squeeze {squeeze_version()}"
    return f"measured on this host by squeeze bench --profile, {date}, {versions}"


def _short(value: float) -> float | int:
    """Whole numbers where they are large: YAML reads 1e+10 as a text."""
    rounded = float(f"{value:.{DIGITS - 1}e}")
    return int(rounded) if rounded.is_integer() else rounded
