"""The most memory that this process has held, or one that it started."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")
UNIT = 1 if sys.platform == "darwin" else 1024


def peak_memory_bytes() -> int:
    """Of this process: resident, pages of mapped files included.

    Linux tells it of the program alone; ``ru_maxrss``, all that others have, starts at what a parent held.
    """
    match = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text()) if STATUS.is_file() else None
    if match:
        return int(match[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def largest_process_bytes() -> int:
    """Of this process or any that it started and that has ended, whichever held more; they are not added up.

    What a child inherits of ``ru_maxrss`` is never more than this process held itself.
    """
    return max(peak_memory_bytes(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * UNIT)
