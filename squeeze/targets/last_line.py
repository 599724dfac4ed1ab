"""What a script on an opened package prints as JSON, from a confined process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from squeeze.errors import VerifyError, printable
from squeeze.targets.confined import Limits, Stopped, run_confined
from squeeze.targets.verify import Package


def last_line(command: Sequence[str], limits: Limits, package: Package, folders: Sequence[Path]) -> dict[str, Any]:
    """What the script prints as JSON in its last line; raises ``VerifyError`` where it does not."""
    try:
        done = run_confined(command, limits, package.model_bytes(), folders=[*folders, *package.temporary()])
    except Stopped as stopped:
        raise VerifyError(f"{package.path}: {stopped}") from None
    try:
        answer: dict[str, Any] = json.loads(done.out.splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.error.strip().splitlines() or ["it gave no answer"])[-1]
        raise VerifyError(f"{package.path}: {printable(last.removeprefix('run.py: '))[:300]}") from None
    return answer
