"""sha256 of files, so that damage on disk is noticed; a file is read once per process for it.

A file counts as unchanged within a process while its place, inode, size and time of change stay the same. Reading
costs about a second per gigabyte, once per process and file.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

_KNOWN: dict[tuple[str, int, int, int], str] = {}


def file_sum(path: Path) -> str:
    """sha256 of a file's bytes."""
    status = path.stat()
    key = (os.fspath(path), status.st_ino, status.st_size, status.st_mtime_ns)
    if key not in _KNOWN:
        with path.open("rb") as file:
            _KNOWN[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _KNOWN[key]


def sync(path: Path) -> None:
    """Ask the disk for a file or folder: once this returns, a power cut does not lose it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_summed(part: Path, path: Path) -> None:
    """Rename a finished ``part`` to its place, with its sha256 in a file of the folder beside."""
    note = _note(path)
    note.parent.mkdir(parents=True, exist_ok=True)
    sync(part)
    note.write_text(file_sum(part))
    sync(note)
    part.replace(path)
    sync(path.parent)


def is_whole(path: Path) -> bool:
    """Whether :func:`put_summed` put this file there and its bytes are still the same."""
    try:
        return _note(path).read_text() == file_sum(path)
    except (OSError, UnicodeDecodeError):
        return False


def _note(path: Path) -> Path:
    return path.parent.with_name(f"{path.parent.name}-sums") / path.name
