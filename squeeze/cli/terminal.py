"""Progress as a person sees it: a bar on a terminal, a line at least every half minute in a log."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from squeeze.errors import printable
from squeeze.progress import Followed, Progress, duration, length_of

if TYPE_CHECKING:
    from rich.progress import Progress as RichBars

T = TypeVar("T")
SILENCE_S = 30.0  # a log says where the work is at least this often


class LineProgress(Followed):
    """Lines on standard error and no bars, for logs and CI; in silence, every half minute a line of where the work is.

    Args:
        verbose: Each line begins with the time since the start, and each piece of work has one when it ends.
        silence_s: The longest silence, in seconds.
    """

    def __init__(self, folder: Path | None = None, verbose: bool = False, silence_s: float = SILENCE_S) -> None:
        super().__init__(folder)
        self.verbose, self.silence_s = verbose, silence_s
        self._spoke, self._over = time.monotonic(), threading.Event()
        self._since = time.time()  # the last line that was not a heartbeat
        self._heartbeat: threading.Thread | None = None

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        began, done = time.time(), 0
        for item in super().track(items, what, total):
            yield item
            done += 1
        if self.verbose:
            self._print(f"{what}: {done} done in {duration(time.time() - began)}")

    def say(self, line: str) -> None:
        super().say(line)
        self._since = time.time()
        self._print(line)

    def __enter__(self) -> Self:
        self._heartbeat = threading.Thread(target=self._beat, daemon=True)
        self._heartbeat.start()
        return super().__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        if self._heartbeat is not None:
            self._heartbeat.join()
        super().__exit__(kind, error, at)

    def _print(self, line: str) -> None:
        self._spoke = time.monotonic()
        before = f"[{duration(time.time() - self.began)}] " if self.verbose else ""
        print(f"{before}{printable(line)}", file=sys.stderr, flush=True)

    def _beat(self) -> None:
        while not self._over.wait(max(0.01, self._spoke + self.silence_s - time.monotonic())):
            if time.monotonic() >= self._spoke + self.silence_s:
                self._print(self.position())

    def position(self) -> str:
        now = time.time()
        works = "; ".join(work.sentence(now) for work in self.works)
        return works or f"still at work, {duration(now - self._since)} since: {self.line or 'the start'}"


class BarProgress(Followed):
    """A rich bar per piece of work, gone when the work is done."""

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        count = total if total is not None else length_of(items)
        with _bars() as bars:
            task = bars.add_task(what, total=count)
            for item in super().track(items, what, count):
                yield item
                bars.advance(task)

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Without a bar, which is drawn ten times a second: a clock may be running."""
        for _ in super().track(iter((None,)), what):
            yield

    def say(self, line: str) -> None:
        super().say(line)
        print(printable(line), file=sys.stderr, flush=True)


def progress_for_terminal(folder: Path | None = None, quiet: bool = False, verbose: bool = False) -> Progress:
    """Bars when a person watches; lines when standard error is a file, ``CI`` is set, or every step is asked for."""
    if quiet:
        return Followed(folder)
    watched = sys.stderr.isatty() and not os.environ.get("CI")
    return BarProgress(folder) if watched and not verbose else LineProgress(folder, verbose)


def _bars() -> RichBars:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichBars

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return RichBars(*columns, console=Console(stderr=True), transient=True)
