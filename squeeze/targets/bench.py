"""How fast and how large a package or a model is on this host.

Absolute numbers of one model; whether one model is faster than another is asked of ``squeeze.evaluate``, which
lets the two alternate.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from squeeze.errors import ModelError, VerifyError, printable
from squeeze.models.base import Batch, Model
from squeeze.models.language.decoder import Decoder
from squeeze.progress import Progress
from squeeze.targets import child, standalone
from squeeze.targets.check import read_manifest
from squeeze.targets.confined import Limits, Stopped, run_confined
from squeeze.targets.host import host
from squeeze.targets.verify import Package

WARM_UP_RUNS = 3
WARM_UP_S = 0.1
LEAST_RUNS = 10


def bench(
    subject: Package | Model,
    threads: int = 1,
    batch_sizes: Sequence[int] = (1, 8),
    seconds: float = 1.0,
    progress: Progress | None = None,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Latency per batch size, and for a package load time and peak memory of a fresh process; JSON values.

    Args:
        seconds: How long to measure each batch size, after the warm-up.
        limits: Of the confined process that runs a package; its time comes on top of what is measured.
    """
    if isinstance(subject, Package):
        (progress or Progress()).say(f"measuring {subject.path}, about {seconds * len(batch_sizes):.0f} s")
        return _bench_package(subject, threads, batch_sizes, seconds, limits or Limits())
    if isinstance(subject, Decoder):
        raise ModelError("a language model is benched as a package, by the tokens it reads and writes")
    sizes = (progress or Progress()).track(list(batch_sizes), "bench", None)
    return _measured(subject, _noise(subject), threads, list(sizes), seconds)


def bench_in_child(path: str, folder: str, **asked: Any) -> dict[str, Any]:
    """In a child: the latencies of an opened package's model."""
    package = Package(Path(path), Path(folder), read_manifest(Path(path), Path(folder)))
    model = package.load_model()
    fixed = [size for size in package.manifest.inputs[0].shape[:1] if isinstance(size, int)]
    sizes = fixed or asked["batch_sizes"]
    return _measured(model, _golden_batch(package), asked["threads"], sizes, asked["seconds"])


def _bench_package(
    package: Package, threads: int, batch_sizes: Sequence[int], seconds: float, limits: Limits
) -> dict[str, Any]:
    where = str(package.path)
    asked = {"threads": threads, "batch_sizes": list(batch_sizes), "seconds": seconds}
    arguments = {"path": where, "folder": str(package.folder.resolve()), **asked}
    fresh = _fresh_process(package, threads, limits)
    longer = replace(limits, seconds=limits.seconds + 2 * seconds * len(batch_sizes))
    size, folders = package.model_bytes(), package.temporary()
    found = child.call("squeeze.targets.bench:bench_in_child", arguments, longer, size, where, folders=folders)
    return dict(found) | {"package_bytes": package.nbytes(), **fresh}


def _measured(model: Model, examples: Batch, threads: int, sizes: Sequence[int], seconds: float) -> dict[str, Any]:
    batches = [_latency(model, _sized(examples, size), threads, seconds) for size in sizes]
    return {"host": host(), "threads": threads, "model_bytes": model.nbytes(), "batches": batches}


def _latency(model: Model, batch: Batch, threads: int, seconds: float) -> dict[str, float]:
    try:
        run = model.runner(batch, threads)
        run()
    except Exception as error:  # torch and ONNX Runtime raise what they like for a batch that does not fit
        raise ModelError(
            f"batch of {len(batch)}: the model refuses it ({' '.join(str(error).split())[:200]})"
        ) from error
    _timed(run, WARM_UP_S, WARM_UP_RUNS)
    times = _timed(run, seconds, LEAST_RUNS)
    low, median, high = (float(1000 * value) for value in np.percentile(times, (10, 50, 90)))
    return {
        "batch": len(batch),
        "runs": len(times),
        "median_ms": median,
        "p10_ms": low,
        "p90_ms": high,
        "examples_per_s": 1000 * len(batch) / median,
    }


def _timed(run: Callable[[], object], seconds: float, least: int) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def _golden_batch(package: Package) -> Batch:
    """The golden input of a package."""
    arrays = package.golden().inputs
    if any(array.ndim == 0 or len(array) == 0 for array in arrays.values()):
        raise VerifyError(f"{package.path}: the golden input holds no example; make the package again")
    return Batch({name: torch.from_numpy(array) for name, array in arrays.items()})


def _noise(model: Model) -> Batch:
    """Seeded noise for a bare model."""
    unknown = [spec.name for spec in model.inputs if -1 in spec.shape]
    if unknown:
        raise ModelError(
            f"input '{unknown[0]}' has a free size besides the batch; bench a package of the model instead"
        )
    noise = torch.Generator().manual_seed(0)
    return Batch({spec.name: torch.randn(1, *spec.shape, generator=noise) for spec in model.inputs})


def _sized(examples: Batch, size: int) -> Batch:
    """Exactly ``size`` examples, repeated as often as needed."""
    chosen = torch.arange(size) % len(examples)
    return Batch({name: tensor[chosen] for name, tensor in examples.inputs.items()})


def _fresh_process(package: Package, threads: int, limits: Limits) -> dict[str, Any]:
    """Load time and peak memory of a process that holds the model and little else; our script, not the package's."""
    script = [sys.executable, "-I", str(Path(standalone.__file__)), "--golden", "--json"]
    place = ["--folder", str(package.folder), "--threads", str(threads)]
    found = run_script([*script, *place], limits, package)
    return {"load_ms": found["load_ms"], "peak_rss_bytes": found["peak_rss_bytes"]}


def run_script(command: Sequence[str], limits: Limits, package: Package) -> dict[str, Any]:
    """What one of our scripts, run confined on a package, prints as JSON in its last line.

    Raises:
        VerifyError: it does not.
    """
    try:
        done = run_confined(command, limits, package.model_bytes())
    except Stopped as stopped:
        raise VerifyError(f"{package.path}: {stopped}") from None
    try:
        found: dict[str, Any] = json.loads(done.out.splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.error.strip().splitlines() or ["it gave no answer"])[-1]
        raise VerifyError(f"{package.path}: {printable(last.removeprefix('run.py: '))[:300]}") from None
    return found
