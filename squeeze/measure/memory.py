"""How fast this host reads memory, with so many threads, and what it has of memory and disk."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from squeeze.evaluate.latency import median_seconds
from squeeze.measure.clock import LEAST_RUNS, TIMES

SIZES = (2**20, 2**22, 2**24, 2**26)  # bytes read again and again; the largest follows from the caches
TIMES_CACHE = 4  # the largest size is so many times the last cache
LEAST_LARGEST = 2**28
PART = 2**16  # numbers summed in one call, which stay in registers


def read_speeds(threads: int, seconds: float) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Bytes per second of reading arrays of so many bytes from end to end, each thread its own part."""
    sizes = (*SIZES, max(LEAST_LARGEST, TIMES_CACHE * last_cache_bytes()))
    with ThreadPoolExecutor(threads) as pool:
        return sizes, tuple(_read(pool, threads, size, seconds) for size in sizes)


def _read(pool: ThreadPoolExecutor, threads: int, size: int, seconds: float) -> float:
    parts = np.array_split(np.ones(size // 8), threads)

    def call() -> object:
        return list(pool.map(np.sum, parts))

    call()
    return size / min(median_seconds(call, seconds, LEAST_RUNS) for _ in range(TIMES))


def last_cache_bytes() -> int:
    """Of the largest cache that the system tells of; 0: it tells of none."""
    texts = [file.read_text().strip() for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(text[:-1]) * 1024 ** (" KMG".index(text[-1])) for text in texts if text[-1] in "KMG"), default=0)


def available_memory() -> int:
    """Bytes that a program could take now, within a container's limit."""
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    lines = _text("/proc/meminfo").splitlines()
    free = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    limit = _text("/sys/fs/cgroup/memory.max").strip()
    return min([*free, *([int(limit)] if limit.isdigit() else [])], default=pages)


def free_storage(folder: Path) -> int:
    """Bytes free on the disk of a folder."""
    return shutil.disk_usage(folder).free


def _text(file: str) -> str:
    try:
        return Path(file).read_text()
    except OSError:
        return ""  # another system than Linux: its own figures are asked instead
