"""How fast and how large a package or a model is on this host.

Absolute numbers of one model; whether one model is faster than another is asked of ``squeeze.evaluate``, which
lets the two alternate.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from squeeze.errors import ModelError, VerifyError
from squeeze.models.base import Batch, Model
from squeeze.models.language.decoder import Decoder
from squeeze.progress import Progress
from squeeze.targets import standalone
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
) -> dict[str, Any]:
    """Latency per batch size, and for a package load time and peak memory of a fresh process; JSON values.

    Args:
        seconds: How long to measure each batch size, after the warm-up.
    """
    model = subject.load_model() if isinstance(subject, Package) else subject
    if isinstance(model, Decoder):
        raise ModelError("a language model is benched as a package, by the tokens it reads and writes")
    examples = _examples(subject)
    sizes = (progress or Progress()).track(_sizes(subject, batch_sizes), "bench", None)
    result: dict[str, Any] = {"host": host(), "threads": threads, "model_bytes": model.nbytes()}
    if isinstance(subject, Package):
        result |= {"package_bytes": subject.nbytes(), **_fresh_process(subject, threads)}
    result["batches"] = [_latency(model, _sized(examples, size), threads, seconds) for size in sizes]
    return result


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


def _examples(subject: Package | Model) -> Batch:
    """The golden input of a package; seeded noise for a bare model."""
    if isinstance(subject, Package):
        arrays = subject.golden().inputs
        return Batch({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})
    unknown = [spec.name for spec in subject.inputs if -1 in spec.shape]
    if unknown:
        raise ModelError(
            f"input '{unknown[0]}' has a free size besides the batch; bench a package of the model instead"
        )
    noise = torch.Generator().manual_seed(0)
    return Batch({spec.name: torch.randn(1, *spec.shape, generator=noise) for spec in subject.inputs})


def _sized(examples: Batch, size: int) -> Batch:
    """Exactly ``size`` examples, repeated as often as needed."""
    chosen = torch.arange(size) % len(examples)
    return Batch({name: tensor[chosen] for name, tensor in examples.inputs.items()})


def _sizes(subject: Package | Model, wanted: Sequence[int]) -> list[int]:
    """A model with a fixed batch is measured at that one."""
    fixed = subject.manifest.inputs[0].shape[0] if isinstance(subject, Package) else None
    return [fixed] if isinstance(fixed, int) else list(wanted)


def _fresh_process(package: Package, threads: int) -> dict[str, Any]:
    """Load time and peak memory of a process that holds the model and little else; our script, not the package's."""
    script = [sys.executable, "-I", str(Path(standalone.__file__)), "--golden", "--json"]
    place = ["--folder", str(package.folder), "--threads", str(threads)]
    done = subprocess.run([*script, *place], capture_output=True, text=True, check=False)
    if not done.stdout:
        raise VerifyError(f"{package.path}: {done.stderr.strip() or 'the golden run gave no answer'}")
    found = json.loads(done.stdout)
    return {"load_ms": found["load_ms"], "peak_rss_bytes": found["peak_rss_bytes"]}
