"""Ctrl-C and SIGTERM: every ``finally`` runs, and one line says what was finished and how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from squeeze.errors import Terminated

RESUME = "every finished pass is kept in the store, and the same command goes on from there"


@contextmanager
def clean_end() -> Iterator[None]:
    """Let SIGTERM raise ``Terminated``: work folders go, and processes that were started end."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal would interrupt the clean-up
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def stop_line(how: str, arguments: Sequence[str], error: BaseException) -> str:
    """``squeeze: terminated; finished: original, gptq; ...``."""
    finished: list[str] = getattr(error.__cause__ or error, "__notes__", [])  # click makes an Abort of a Ctrl-C
    return "; ".join([f"squeeze: {how}", *finished, *([RESUME] if arguments[:1] == ["run"] else [])])
