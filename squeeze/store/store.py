"""What is finished, on disk, under the hash of what made it.

An entry appears whole or not at all: it is written beside, synced and renamed. A failure leaves nothing behind.
Two processes that want the same entry: one makes it, the other waits and finds it made. What a long pass finished
before it was killed lies in its :class:`Journal`. An entry whose bytes have changed since counts as absent.

    store/entries/<key>/        entry.json (made_from, files with sha256) and the content
    store/journals/<key>/       finished pieces of a pass that has not finished yet
    store/work/<key>/           being written now
    store/runs/                 what living runs use, and their work in progress
    store/locks/<key>.lock      held while an entry is made
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from squeeze.errors import StoreError
from squeeze.progress import Progress
from squeeze.store.holds import Holds
from squeeze.store.journal import Journal
from squeeze.store.seal import SEAL, Entry, read_entry, seal
from squeeze.sums import sync
from squeeze.versions import code_digest, library_versions
from squeeze.work import work_folder

T = TypeVar("T")
FOLDERS = ("entries", "journals", "work", "runs", "locks")


def key_of(made_from: Any) -> str:
    """sha256 of JSON values in canonical form: the same inputs, the same key."""
    return hashlib.sha256(json.dumps(made_from, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _made_from(kind: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Changed code or another library never meets an old result, whatever its kind."""
    return {"kind": kind, "inputs": dict(inputs), "versions": library_versions(), "code": code_digest()}


class Store:
    """Finished things by key, in a folder that several processes may share; one that cannot be written is read."""

    def __init__(self, folder: Path, progress: Progress | None = None) -> None:
        self.folder = folder
        self.progress = progress or Progress()
        self.holds = Holds(folder)
        self.made = 0  # entries that were written by this object
        try:
            for name in FOLDERS:
                (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if isinstance(error, FileExistsError | NotADirectoryError) or not (folder / "entries").is_dir():
                reason = f"{error.filename}: {error.strerror}"
                raise StoreError(f"{folder}: cannot be used as a store ({reason}); name another with --store") from None
        self.writable = all(os.access(folder / name, os.W_OK | os.X_OK) for name in FOLDERS)

    def cached(
        self,
        kind: str,
        inputs: Mapping[str, Any],
        write: Callable[[Path], None],
        read: Callable[[Path], T],
        what: str | None = None,
    ) -> T:
        """What ``read`` makes of an entry's folder, written first by ``write`` if it is not there yet.

        Args:
            kind: What sort of thing it is: ``logits``, ``pass``. Two kinds never share an entry.
            inputs: What it is made from, as JSON values; the versions of our code and of the libraries are added.
            what: The entry's name in ``squeeze store list``; its kind where nothing is given.
        """
        made_from = _made_from(kind, inputs)
        return read(self.make(key_of(made_from), what or kind, made_from, write))

    def key(self, kind: str, inputs: Mapping[str, Any]) -> str:
        """The key under which :meth:`cached` keeps a thing of that kind made from those inputs."""
        return key_of(_made_from(kind, inputs))

    @contextmanager
    def run(self) -> Iterator[Path]:
        """For as long as the ``with`` lasts, no prune removes what is got or made; gives the run's work folder."""
        if not self.writable:
            yield work_folder("run")
            return
        try:
            with self.holds.run() as work:
                yield work
        except Exception as error:
            if not all((self.folder / name).is_dir() for name in FOLDERS):
                raise StoreError(
                    f"{self.folder}: was removed while it was in use; the same command begins anew, "
                    "and `squeeze store prune` is what leaves a running command alone"
                ) from error
            raise

    def get(self, key: str) -> Path | None:
        """The folder of a finished entry, or None; an entry whose files were damaged counts as absent."""
        self.holds.add(key)
        folder = self._whole(key)
        if folder is None and (self.folder / "entries" / key).exists():
            self.progress.say(f"{self.folder / 'entries' / key}: the entry is damaged and is made again")
        return folder

    def make(self, key: str, what: str, made_from: dict[str, Any], write: Callable[[Path], None]) -> Path:
        """The entry of that key, made by ``write(folder)`` if it is not there yet."""
        if (folder := self.get(key)) is not None:
            return folder
        with self.lock(key):
            if (whole := self._whole(key)) is not None:
                return whole
            self.made += 1
            return self._make(key, what, made_from, write)

    def hold(self, *keys: str) -> None:
        """Keep what a run will come to later: no prune removes it as long as the run lasts."""
        self.holds.add(*keys)

    def rewrite(self, key: str, write: Callable[[Path], None]) -> bool:
        """Replace a finished entry's content; False: another run uses it, or the store cannot be written."""
        if not self.writable:
            return False
        with self.holds.guard:
            if key in self.holds.in_use(by_others=True):
                return False
            with self.lock(key, wait=False) as is_locked:
                entry = read_entry(self.folder / "entries" / key) if is_locked else None
                if entry is None:
                    return False
                self._make(key, entry.what, entry.made_from, write)
                return True

    def drop(self, key: str) -> None:
        """Forget an entry that is to be made again."""
        with self.lock(key):
            shutil.rmtree(self.folder / "entries" / key, ignore_errors=True)

    def disk_bytes(self) -> int:
        """What the entries that this run uses take on disk; a file that has a name outside the store takes nothing."""
        files: dict[int, list[os.stat_result]] = {}
        for key in self.holds.mine():
            for path in (self.folder / "entries" / key).rglob("*"):
                if path.is_file():
                    files.setdefault((status := path.stat()).st_ino, []).append(status)
        return sum(same[0].st_size for same in files.values() if same[0].st_nlink <= len(same))

    def journal(self, key: str) -> Journal:
        """Where a pass keeps what it has finished so far."""
        return Journal(self.folder / "journals" / key)

    def entries(self) -> list[Entry]:
        """Every finished entry, most recently used first."""
        entries = (read_entry(folder) for folder in (self.folder / "entries").iterdir())
        return sorted((entry for entry in entries if entry), key=lambda entry: -entry.used)

    def prune(self, older_than_s: float, dry_run: bool = False) -> list[Entry]:
        """Remove entries not used for that long, and journals as old.

        What a living run holds stays, and what was made directly from that: what a pass's model answers, say.
        """
        limit = time.time() - older_than_s
        old = [entry for entry in self.entries() if entry.used < limit]
        if dry_run:
            return old
        removed = [entry for entry in old if self._remove(entry.folder, _texts(entry.made_from))]
        for place in ("journals", "work"):
            for folder in (self.folder / place).iterdir():
                if _changed(folder) < limit:
                    self._remove(folder)
        return removed

    @contextmanager
    def lock(self, key: str, wait: bool = True) -> Iterator[bool]:
        """Hold a key against other processes; yields False where it is held elsewhere and ``wait`` is off."""
        lock = FileLock(self.folder / "locks" / f"{key}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not wait:
                yield False
                return
            self.progress.say(f"another process is making {key[:12]}; waiting for it")
            lock.acquire()
        try:
            yield True
        finally:
            lock.release()

    def _whole(self, key: str) -> Path | None:
        """The folder of an entry that is there and undamaged; counts as a use."""
        folder = self.folder / "entries" / key
        entry = read_entry(folder)
        if entry is None or not entry.is_whole():
            return None
        with suppress(OSError):  # a store on a read-only disk can be read all the same
            os.utime(folder / SEAL)
        return folder

    def _make(self, key: str, what: str, made_from: dict[str, Any], write: Callable[[Path], None]) -> Path:
        work, final = self.folder / "work" / key, self.folder / "entries" / key
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            write(work)
            seal(work, key, what, made_from)
            shutil.rmtree(final, ignore_errors=True)  # damaged, or to be replaced
            work.rename(final)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
        sync(final.parent)
        shutil.rmtree(self.folder / "journals" / key, ignore_errors=True)
        return final

    def _remove(self, folder: Path, made_from: Set[str] = frozenset()) -> bool:
        """Remove what is under a key, unless a living run uses or makes it, or something that it was made from."""
        with self.holds.guard:
            if not self.holds.in_use().isdisjoint({folder.name, *made_from}):
                return False
            with self.lock(folder.name, wait=False) as is_locked:
                if is_locked:
                    shutil.rmtree(folder, ignore_errors=True)
                return is_locked


def _texts(value: Any) -> set[str]:
    """All texts in JSON values; the keys of other entries are among them."""
    if isinstance(value, str):
        return {value}
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {text for one in inner for text in _texts(one)}


def _changed(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # another process finished it since it was listed
        return float("inf")
