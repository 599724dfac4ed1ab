"""Progress of long work: which work is under way, how far it is, and a file that says so to whoever asks.

Code below the command line is handed a :class:`Progress` and need not know whether it is silent, a bar or lines.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")
STATUS = "status.json"
STATUS_S = 1.0  # seconds between two writes of the status
FEW = 2  # items after which the remaining time is estimated


class Progress:
    """Silent progress; the base of the visible ones."""

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """Yield the items, showing how far along ``what`` is."""
        yield from items

    def say(self, line: str) -> None:
        """One line for the person who watches."""

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Show that something is under way whose steps nobody counts."""
        for _ in self.track(iter((None,)), what):
            yield

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """The work is over, well or by ``error``."""


SILENT = Progress()


@dataclass
class Work:
    """A piece of work that is being tracked.

    Args:
        total: How many items there are; None: not known.
        done: How many are done.
        began: Seconds since the epoch.
    """

    what: str
    total: int | None
    began: float
    done: int = 0

    def sentence(self, now: float) -> str:
        """``gptq: 7 of 30, 2 min 10 s gone, about 6 min 40 s left``."""
        elapsed_s = now - self.began
        count = f"{self.done}" if self.total is None else f"{self.done} of {self.total}"
        parts = [self.what if count == "0" else f"{self.what}: {count}", f"{duration(elapsed_s)} gone"]
        if self.total is not None and self.done >= FEW:
            parts.append(f"about {duration(elapsed_s / self.done * (self.total - self.done))} left")
        return ", ".join(parts)


@dataclass
class Status:
    """What a run says about itself.

    Args:
        began, written: Seconds since the epoch.
        line: The last one that was said.
        works: What is under way, the outermost first.
        ended: ``finished``, or the error that ended it; None while it runs, and for ever where it was killed.
    """

    pid: int
    host: str
    began: float
    written: float
    line: str
    works: list[Work]
    ended: str | None

    @classmethod
    def read(cls, folder: Path) -> Status | None:
        """None where there is no such file, or it is none of ours."""
        try:
            v = json.loads((folder / STATUS).read_text())
            works = [Work(w["what"], w["total"], float(w["began"]), int(w["done"])) for w in v["works"]]
            return cls(int(v["pid"]), v["host"], float(v["began"]), float(v["written"]), v["line"], works, v["ended"])
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self, folder: Path) -> None:
        """Whole or not at all."""
        new = folder / f".{STATUS}.{os.getpid()}"
        try:
            new.write_text(json.dumps(asdict(self), indent=1) + "\n")
            new.replace(folder / STATUS)
        finally:
            new.unlink(missing_ok=True)


class Followed(Progress):
    """Knows which work is under way and keeps a status file of it, where a folder is named.

    Args:
        folder: Where ``status.json`` is written, at most once a second.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder, self.works = folder, list[Work]()
        self.began, self.line, self._written = time.time(), "", 0.0

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        work = Work(what, total if total is not None else length_of(items), time.time())
        self.works.append(work)
        try:
            for item in items:
                self._write()
                yield item
                work.done += 1
        finally:
            self.works.remove(work)

    def say(self, line: str) -> None:
        self.line = line
        self._write()

    def __enter__(self) -> Self:
        for part in self.folder.glob(f".{STATUS}.*") if self.folder is not None else ():
            part.unlink(missing_ok=True)  # left by a killed process
        self._write(now=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._write(now=True, ended="finished" if kind is None else str(error) or kind.__name__)

    def _write(self, now: bool = False, ended: str | None = None) -> None:
        """Write the status, whole or not at all; a full disk stops no run for the sake of it."""
        if self.folder is None or (not now and time.time() < self._written + STATUS_S):
            return
        self._written = time.time()
        host, times = socket.gethostname(), (self.began, self._written)
        try:
            Status(os.getpid(), host, *times, self.line, list(self.works), ended).write(self.folder)
        except OSError:
            self.folder = None


def duration(seconds: float) -> str:
    """``2 min 14 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


@contextmanager
def no_foreign_bars() -> Iterator[None]:
    """Silence libraries that print bars while they load a model; exceptions still pass."""
    with redirect_stderr(StringIO()), redirect_stdout(StringIO()):
        yield


def length_of(items: Iterable[T]) -> int | None:
    """How many there are, where that is known beforehand."""
    return len(items) if isinstance(items, Sized) else None
