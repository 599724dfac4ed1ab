"""Which entries living runs use, so that ``prune`` leaves them alone.

store/runs/squeeze-work-<id>/keys      the entries that the run uses, one key per line
store/runs/squeeze-work-<id>/work/     its work in progress
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from squeeze.work import OwnedFolder, living, remove_abandoned

KEYS, WORK = "keys", "work"


class Holds:
    """The runs on one store; ``guard`` is held while a key is added, and while an entry is judged and removed."""

    def __init__(self, store: Path) -> None:
        self.runs = store / "runs"
        self.guard = FileLock(store / "locks" / "prune.lock")
        self._mine: Path | None = None

    @contextmanager
    def run(self) -> Iterator[Path]:
        """A run begins; gives its work folder, which is gone with it."""
        remove_abandoned(self.runs)
        owned = OwnedFolder(self.runs)
        before, self._mine = self._mine, owned.path / KEYS
        try:
            (owned.path / WORK).mkdir()
            yield owned.path / WORK
        finally:
            self._mine = before
            owned.remove()

    def add(self, key: str) -> None:
        """Keep an entry, there already or yet to come, for as long as the run lasts."""
        if self._mine is None or key in _keys(self._mine):
            return
        with self.guard, self._mine.open("a") as file:
            file.write(f"{key}\n")

    def in_use(self) -> set[str]:
        """The keys that living runs hold."""
        return {key for run in living(self.runs) for key in _keys(run / KEYS)}


def _keys(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except FileNotFoundError:
        return []
