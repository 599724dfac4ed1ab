"""The machine that measures: what a reader must know to compare its timings."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from squeeze.models.ort_session import EXACT_PRODUCTS, products_overflow

CURED = f"overflow 16 bits: computed exactly by {EXACT_PRODUCTS}, but for .ort files"


def host() -> dict[str, str | int]:
    """Processor, cores, system and runtime, and whether the runtime's fast int8 products are exact here."""
    import onnxruntime

    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "onnxruntime": str(onnxruntime.__version__),
        "int8_products": CURED if products_overflow() else "exact",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
