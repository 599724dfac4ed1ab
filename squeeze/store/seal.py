"""What an entry says of itself, ``entry.json``: what made it, and the size and sha256 of each of its files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squeeze.refused import is_of_this_host
from squeeze.sums import file_sum, sync

LAYOUT = 2
SEAL = "entry.json"


@dataclass(frozen=True)
class Entry:
    """One finished thing: its key, where it lies, what made it, its size and when it was last used."""

    key: str
    folder: Path
    what: str
    made_from: dict[str, Any]
    files: dict[str, tuple[int, str]]  # by name: size in bytes, sha256
    used: float

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(size for size, _ in self.files.values())

    def is_whole(self) -> bool:
        """Whether every file still has the bytes that were written."""
        try:
            return all(file_sum(self.folder / name) == digest for name, (_, digest) in self.files.items())
        except OSError as error:
            if is_of_this_host(error):  # too many open files are not damage
                raise
            return False


def seal(folder: Path, key: str, what: str, made_from: dict[str, Any]) -> None:
    """Finish an entry: note its files, and put everything on disk."""
    files = {name: [size, file_sum(folder / name)] for name, size in _sizes(folder).items()}
    facts = {"layout": LAYOUT, "key": key, "what": what, "made_from": made_from, "files": files}
    (folder / SEAL).write_text(_text(facts | {"sha256": _sum(facts)}))
    for path in sorted(folder.rglob("*")):
        sync(path)
    sync(folder)


def read_entry(folder: Path) -> Entry | None:
    """The entry in a folder; None where it is absent, of another layout, or damaged as far as sizes show."""
    try:
        if not (folder / SEAL).is_file():  # a pipe or a device would never end
            return None
        written = (folder / SEAL).read_text()
        facts = json.loads(written)
        if _text(facts) != written or facts.pop("sha256") != _sum(facts):
            return None
        if facts["layout"] != LAYOUT or facts["key"] != folder.name:
            return None
        files = {name: (size, digest) for name, (size, digest) in facts["files"].items()}
        used = (folder / SEAL).stat().st_mtime
        entry = Entry(facts["key"], folder, facts["what"], facts["made_from"], files, used)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if is_of_this_host(error):
            raise
        return None
    return entry if _sizes(folder) == {name: size for name, (size, _) in files.items()} else None


def _text(facts: dict[str, Any]) -> str:
    """Canonical, so that a flipped bit between two values shows as well."""
    return json.dumps(facts, indent=1, sort_keys=True)


def _sum(facts: dict[str, Any]) -> str:
    """sha256 of all that an entry says of itself."""
    return hashlib.sha256(_text(facts).encode()).hexdigest()


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file() and path != folder / SEAL)
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(files)}
