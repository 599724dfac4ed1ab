"""What is finished, on disk, under the hash of what made it.

An entry appears whole or not at all: it is written beside, synced and renamed. A failure leaves nothing behind.
Two processes that want the same entry: one makes it, the other waits and finds it made. What a long pass finished
before it was killed lies in its :class:`Journal`.

    store/entries/<key>/        entry.json (made_from, sizes) and the content
    store/journals/<key>/       finished pieces of a pass that has not finished yet
    store/work/<key>/           being written now
    store/locks/<key>.lock      held while an entry is made
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from squeeze.errors import StoreError
from squeeze.progress import Progress
from squeeze.versions import code_digest, library_versions

LAYOUT = 1
T = TypeVar("T")


def key_of(made_from: Any) -> str:
    """sha256 of JSON values in canonical form: the same makings, the same key."""
    return hashlib.sha256(json.dumps(made_from, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _made_from(kind: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Changed code or another library never meets an old result, whatever its kind."""
    return {"kind": kind, "inputs": dict(inputs), "versions": library_versions(), "code": code_digest()}


@dataclass(frozen=True)
class Entry:
    """One finished thing: its key, where it lies, what made it, its size and when it was last used."""

    key: str
    folder: Path
    what: str
    made_from: dict[str, Any]
    size_bytes: int
    used: float


class Journal:
    """Finished pieces of one pass, each written atomically; gone when the pass itself is in the store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, name: str) -> dict[str, Tensor] | None:
        """The piece of that name, or None where it is absent or was cut short."""
        try:
            return load_file(self.folder / f"{name}.safetensors")
        except (FileNotFoundError, SafetensorError):
            return None

    def put(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Keep a piece; once this returns, no kill can lose it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f"{name}.part"
        save_file({key: value.detach().contiguous().clone() for key, value in tensors.items()}, temporary)
        _sync(temporary)
        temporary.replace(self.folder / f"{name}.safetensors")
        _sync(self.folder)

    def drop(self, name: str) -> None:
        """Forget a piece that a later one replaces."""
        (self.folder / f"{name}.safetensors").unlink(missing_ok=True)


class Store:
    """Finished things by key, in a folder that several processes may share."""

    def __init__(self, folder: Path, progress: Progress | None = None) -> None:
        self.folder = folder
        self.progress = progress or Progress()
        try:
            for name in ("entries", "journals", "work", "locks"):
                (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{folder}: cannot be used as a store ({error.strerror}); name another with --store"
            ) from None

    def get(self, key: str) -> Path | None:
        """The folder of a finished entry, or None; an entry whose files were damaged counts as absent."""
        folder = self.folder / "entries" / key
        entry = self._read(folder)
        if entry is None:
            return None
        os.utime(folder / "entry.json")
        return folder

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

    def make(self, key: str, what: str, made_from: dict[str, Any], write: Callable[[Path], None]) -> Path:
        """The entry of that key, made by ``write(folder)`` if it is not there yet."""
        if (found := self.get(key)) is not None:
            return found
        with self.lock(key):
            if (found := self.get(key)) is not None:
                return found
            return self._make(key, what, made_from, write)

    def journal(self, key: str) -> Journal:
        """Where a pass keeps what it has finished so far."""
        return Journal(self.folder / "journals" / key)

    def entries(self) -> list[Entry]:
        """Every finished entry, most recently used first."""
        found = (self._read(folder) for folder in (self.folder / "entries").iterdir())
        return sorted((entry for entry in found if entry), key=lambda entry: -entry.used)

    def prune(self, older_than_s: float, dry_run: bool = False) -> list[Entry]:
        """Remove entries not used for that long, and journals as old; what another process holds stays."""
        limit = time.time() - older_than_s
        old = [entry for entry in self.entries() if entry.used < limit]
        if dry_run:
            return old
        removed = [entry for entry in old if self._remove(entry.folder, entry.key)]
        for place in ("journals", "work"):
            for folder in (self.folder / place).iterdir():
                if folder.stat().st_mtime < limit:
                    self._remove(folder, folder.name)
        return removed

    @contextmanager
    def lock(self, key: str, wait: bool = True) -> Iterator[bool]:
        """Hold a key against other processes; yields False where it is held elsewhere and ``wait`` is off."""
        with (self.folder / "locks" / f"{key}.lock").open("w") as file:
            held = _try_lock(file.fileno())
            if not held and wait:
                self.progress.say(f"another process is making {key[:12]}; waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
                held = True
            yield held

    def _make(self, key: str, what: str, made_from: dict[str, Any], write: Callable[[Path], None]) -> Path:
        work, final = self.folder / "work" / key, self.folder / "entries" / key
        for leftover in (work, final):
            shutil.rmtree(leftover, ignore_errors=True)
        work.mkdir()
        try:
            write(work)
            _seal(work, key, what, made_from)
            work.rename(final)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
        _sync(final.parent)
        shutil.rmtree(self.folder / "journals" / key, ignore_errors=True)
        return final

    def _read(self, folder: Path) -> Entry | None:
        try:
            facts = json.loads((folder / "entry.json").read_text())
            used = (folder / "entry.json").stat().st_mtime
        except (OSError, ValueError):
            return None
        if facts["layout"] != LAYOUT or _sizes(folder) != facts["sizes"]:
            return None
        return Entry(facts["key"], folder, facts["what"], facts["made_from"], sum(facts["sizes"].values()), used)

    def _remove(self, folder: Path, key: str) -> bool:
        with self.lock(key, wait=False) as held:
            if held:
                shutil.rmtree(folder, ignore_errors=True)
            return held


def _seal(folder: Path, key: str, what: str, made_from: dict[str, Any]) -> None:
    facts = {"layout": LAYOUT, "key": key, "what": what, "made_from": made_from, "sizes": _sizes(folder)}
    (folder / "entry.json").write_text(json.dumps(facts, indent=1, sort_keys=True))
    for path in sorted(folder.rglob("*")):
        _sync(path)
    _sync(folder)


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "entry.json")
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(files)}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
