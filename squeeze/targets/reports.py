"""Progress of a confined process, shown by the process that asked for it.

One line of JSON per report in a pipe. The reader trusts nothing: a line that is no report is skipped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sized
from typing import IO, Any, TypeVar

from squeeze.errors import printable
from squeeze.progress import Progress

T = TypeVar("T")

PIPE = "SQUEEZE_REPORTS"  # in the child's environment: the descriptor that it writes to
LONGEST_LINE = 4096  # bytes
LONGEST_NAME = 100  # letters


class PipeProgress(Progress):
    """Progress that is written into a pipe."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        count = len(items) if total is None and isinstance(items, Sized) else total
        self._report(begin=what, total=count)
        try:
            for item in items:
                yield item
                self._report(step=1)
        finally:
            self._report(end=1)

    def say(self, line: str) -> None:
        self._report(say=line)

    def _report(self, **report: Any) -> None:
        os.write(self._pipe, (json.dumps(report) + "\n").encode()[-LONGEST_LINE:])


def child_progress() -> Progress:
    """In a confined process: its progress, silent where nobody reads it."""
    return PipeProgress(int(os.environ[PIPE])) if PIPE in os.environ else Progress()


def show_reports(reports: Iterator[dict[str, Any]], progress: Progress) -> None:
    """Show what a child reports until its pipe closes."""
    for report in reports:
        if "begin" in report:
            total = report.get("total")
            count = total if isinstance(total, int) and total >= 0 else None
            for _ in progress.track(_steps(reports, progress), _name(report["begin"]), count):
                pass
        _say(report, progress)


def read_reports(pipe: IO[bytes]) -> Iterator[dict[str, Any]]:
    while line := pipe.readline(LONGEST_LINE):
        try:
            report = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(report, dict):
            yield report


def _steps(reports: Iterator[dict[str, Any]], progress: Progress) -> Iterator[None]:
    for report in reports:
        if "end" in report:
            return
        if "step" in report:
            yield None
        _say(report, progress)


def _say(report: dict[str, Any], progress: Progress) -> None:
    if "say" in report:
        progress.say(_name(report["say"], LONGEST_LINE))


def _name(text: object, most: int = LONGEST_NAME) -> str:
    return printable(str(text)[:most])
