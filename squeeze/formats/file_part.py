"""Some bytes of a file, read when they are asked for: a file of gigabytes is looked into without being in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FilePart:
    """``size`` bytes of a file, from ``offset`` on."""

    file: Path
    offset: int
    size: int

    def read(self, start: int = 0, size: int | None = None) -> bytes:
        """Its bytes from ``start`` on, or as many of them; raises ``ValueError`` where the file ends before."""
        count = self.size - start if size is None else size
        with self.file.open("rb") as stream:
            stream.seek(self.offset + start)
            data = stream.read(count)
        if len(data) < count:
            raise ValueError(f"it ends {count - len(data)} bytes before a part of it does")
        return data

    def within(self, offset: int, size: int) -> FilePart:
        return FilePart(self.file, self.offset + offset, size)
