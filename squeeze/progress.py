"""Progress of long work: a bar on a terminal, silence elsewhere.

Code below the command line is handed a :class:`Progress` and need not know which it is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING, TypeVar

from squeeze.errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress as RichBars

T = TypeVar("T")


class Progress:
    """Silent progress; the base of the visible one."""

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """Yield the items, showing how far along ``what`` is."""
        yield from items

    def say(self, line: str) -> None:
        """One line for the person who watches."""


class LineProgress(Progress):
    """Lines on standard error and no bars, for logs and CI."""

    def say(self, line: str) -> None:
        print(printable(line), file=sys.stderr, flush=True)


class BarProgress(LineProgress):
    """A rich bar per piece of work, gone when the work is done."""

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        count = total if total is not None else _length(items)
        with _bars() as bars:
            task = bars.add_task(what, total=count)
            for item in items:
                yield item
                bars.advance(task)


def progress_for_terminal() -> Progress:
    """Bars when a person watches; lines when standard error is a file or ``CI`` is set."""
    watched = sys.stderr.isatty() and not os.environ.get("CI")
    return BarProgress() if watched else LineProgress()


@contextmanager
def no_foreign_bars() -> Iterator[None]:
    """Libraries that draw and print while they load a model do so nowhere; what they raise still comes."""
    with redirect_stderr(StringIO()), redirect_stdout(StringIO()):
        yield


def _length(items: Iterable[T]) -> int | None:
    return len(items) if isinstance(items, Sized) else None


def _bars() -> RichBars:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichBars

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return RichBars(*columns, console=Console(stderr=True), transient=True)
