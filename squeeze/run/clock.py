"""How long the passes and the scorings of a run took, beside what the check foretold of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from squeeze.plan.check import Check
from squeeze.plan.duration import UNKNOWN
from squeeze.plan.plan import Step
from squeeze.store import Store


class RowClock:
    """Seconds of what is done in this run: what comes from the store took no time that tells anything.

    Args:
        threads: That the passes run with.
    """

    def __init__(self, checked: Check, store: Store, threads: int) -> None:
        self.store, self.threads = store, threads
        self._efforts = {row.place: row.effort for row in checked.explained}
        self._original = checked.effort
        self._seconds: dict[tuple[str, str], float] = {}

    @contextmanager
    def passing(self, key: str) -> Iterator[None]:
        """A pass that makes the model of that key in the store."""
        began = time.monotonic()
        yield
        self._seconds[key, "pass"] = time.monotonic() - began

    @contextmanager
    def scoring(self, key: str) -> Iterator[None]:
        """The scoring of that model; nothing is noted where all of it lay in the store."""
        began, made = time.monotonic(), self.store.made
        yield
        if self.store.made > made:
            self._seconds[key, "scoring"] = time.monotonic() - began

    def measured(self, key: str, step: Step | None, is_original: bool) -> dict[str, Any]:
        """What a row tells of it, beside what was foretold."""
        parts = {
            part: round(self._seconds[key, part], 3) for part in ("pass", "scoring") if (key, part) in self._seconds
        }
        unknown = self._original if is_original else UNKNOWN
        effort = self._efforts.get(step.place, unknown) if step is not None else unknown
        return {"seconds": parts, "foretold_seconds": effort.seconds(self.threads)} if parts else {}
