"""The machine that measures: what a reader must know to compare its timings."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def host() -> dict[str, str | int]:
    """Processor, cores, system and runtime."""
    import onnxruntime

    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "onnxruntime": str(onnxruntime.__version__),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
