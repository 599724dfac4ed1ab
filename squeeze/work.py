"""Folders for work in progress: gone with the run or the process that made them.

A folder is alive while the process that made it holds its lock, which the kernel takes back however the process ends;
the next one removes what is no longer alive. What is written into the folders is not known here.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir, mkdtemp
from threading import Thread

from filelock import FileLock, Timeout

from squeeze.errors import RefusedError

PREFIX, LOCK = "squeeze-work-", ".lock"
_PARENT: ContextVar[Path | None] = ContextVar("parent of work folders", default=None)


class OwnedFolder:
    """A new folder in ``parent`` that this process owns until it is removed or the process ends."""

    def __init__(self, parent: Path) -> None:
        self.path = parent / f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
        self._lock = FileLock(_lock_of(self.path))
        self._lock.acquire(timeout=5)  # locked before the folder exists, so it never looks abandoned
        self._process = os.getpid()
        try:
            self.path.mkdir()
        except OSError:
            self._release()
            raise

    def remove(self) -> None:
        """Remove the folder; a forked child leaves its parent's alone."""
        if os.getpid() == self._process:
            shutil.rmtree(self.path, ignore_errors=True)
            self._release()

    def _release(self) -> None:
        self._lock.release()
        _forget(self.path)


def end_with_parent() -> None:
    """In a process that does a piece of work for another: end when that one does, however it ends."""
    Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def living(parent: Path) -> list[Path]:
    """The owned folders whose process is alive."""
    return [folder for folder in _owned(parent) if not _abandoned(folder)]


def remove_abandoned(parent: Path) -> None:
    """Remove the owned folders of processes that were killed."""
    for folder in _owned(parent):
        _abandoned(folder)


@contextmanager
def owned_folder(parent: Path) -> Iterator[Path]:
    """A new folder in ``parent``, gone with the ``with``; what killed processes left there goes first.

    For what will be renamed into ``parent`` once it is whole: on the same disk, and a kill leaves no part for long.
    """
    remove_abandoned(parent)
    owned = OwnedFolder(parent)
    try:
        yield owned.path
    finally:
        owned.remove()


@contextmanager
def work_within(parent: Path) -> Iterator[None]:
    """Put all work folders into ``parent`` for as long as the ``with`` lasts."""
    token = _PARENT.set(parent)
    try:
        yield
    finally:
        _PARENT.reset(token)


def work_folder(purpose: str) -> Path:
    """A new empty folder, gone with the run, or with the process where no run is on."""
    return Path(mkdtemp(prefix=f"{purpose}-", dir=_parent()))


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """A new empty folder, gone with the ``with``."""
    with TemporaryDirectory(prefix=f"{purpose}-", dir=_parent()) as folder:
        yield Path(folder)


def place_of_temporary_files() -> Path:
    """``TMPDIR``, or where Python finds room instead.

    Raises:
        RefusedError: nowhere.
    """
    try:
        return Path(gettempdir())
    except FileNotFoundError:
        raise RefusedError(
            "TMPDIR: no folder for temporary files can be written; one on a disk with space would do"
        ) from None


def _parent() -> Path:
    return _PARENT.get() or _folder_of_process(os.getpid())


@cache
def _folder_of_process(_process: int) -> Path:
    """One per process: a forked child makes its own."""
    parent = place_of_temporary_files()
    remove_abandoned(parent)
    owned = OwnedFolder(parent)
    atexit.register(owned.remove)
    return owned.path


def _owned(parent: Path) -> list[Path]:
    """The folders that have a lock of ours; another user's are none of our business."""
    folders = []
    for lock in parent.glob(f"{PREFIX}*{LOCK}"):
        with suppress(FileNotFoundError):  # deleted since it was listed
            if lock.stat().st_uid == os.getuid():
                folders.append(lock.with_suffix(""))
    return folders


def _abandoned(folder: Path) -> bool:
    """Whether nobody holds the folder's lock; then both are gone."""
    try:
        with FileLock(_lock_of(folder)).acquire(timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
            _forget(folder)
            return True
    except Timeout:
        return False


def _forget(folder: Path) -> None:
    """Remove the lock of a folder that is gone; one that could not be removed is found again by it."""
    if not folder.exists():
        _lock_of(folder).unlink(missing_ok=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}{LOCK}")
