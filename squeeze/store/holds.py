"""Which entries living runs use, so that ``prune`` leaves them alone.

store/runs/squeeze-work-<id>/keys      the entries that the run uses, one key per line
store/runs/squeeze-work-<id>/work/     its work in progress
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from squeeze.work import living, owned_folder

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
        with owned_folder(self.runs) as folder:
            before, self._mine = self._mine, folder / KEYS
            try:
                (folder / WORK).mkdir()
                yield folder / WORK
            finally:
                self._mine = before

    def add(self, *keys: str) -> None:
        """Keep entries, there already or yet to come, for as long as the run lasts."""
        if self._mine is None or not (new := set(keys) - set(_keys(self._mine))):
            return
        with self.guard, self._mine.open("a") as file:
            file.write("".join(f"{key}\n" for key in sorted(new)))

    def mine(self) -> set[str]:
        """The keys that this run holds."""
        return set(_keys(self._mine)) if self._mine is not None else set()

    def in_use(self, by_others: bool = False) -> set[str]:
        """The keys that living runs hold, this one's left out or not."""
        runs = (run / KEYS for run in living(self.runs))
        return {key for keys in runs if not (by_others and keys == self._mine) for key in _keys(keys)}


def _keys(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except FileNotFoundError:
        return []
