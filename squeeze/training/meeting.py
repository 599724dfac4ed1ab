"""Where the processes of a launcher meet: who has come, which training is next, who failed, whether all is over.

A key-value server that torchrun runs, or process 0. Waiting is polling, so that Ctrl-C and SIGTERM end it at once;
inside a training, where waiting is torch's, the time is bounded instead (``group.py``).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from multiprocessing.util import Finalize

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from squeeze.errors import SqueezeError, first_line
from squeeze.training.group import Group
from squeeze.training.launch import Launch

GATHERING_S = 300.0  # until all have come
POLL_S = 0.1
FAREWELL_S = 5.0  # that a process waits for others to notice that it goes
CAME, JOB, OVER, LEFT, FAILED = "came", "job", "over", "left", "failed"


class Meeting:
    """One process's view of the meeting place; trainings are numbered as they come."""

    def __init__(self, launch: Launch) -> None:
        self.launch, self.jobs = launch, 0
        serves = launch.rank == 0 and not launch.served
        if not serves and not self._in_time(self._answers, GATHERING_S):
            raise SqueezeError(
                f"process {launch.rank} of {launch.processes}: nobody answered at {launch.place()} in {GATHERING_S:g} "
                "s; process 0 has to run there, or MASTER_ADDR and MASTER_PORT to name another place"
            )
        patience = timedelta(seconds=GATHERING_S)
        try:
            store = TCPStore(launch.host, launch.port, None, serves, patience, wait_for_workers=False)
        except RuntimeError as error:
            what = f"{launch.place()}: processes cannot meet there ({first_line(error)})"
            raise SqueezeError(f"{what}; another MASTER_PORT would do") from error
        self.store = PrefixStore("squeeze", store)
        with self._reachable():
            self.store.add(CAME, 1)

    def gather(self) -> None:
        """Wait until all processes have come; raises ``SqueezeError`` where some have not in five minutes."""
        if not self._in_time(lambda: self.store.add(CAME, 0) >= self.launch.processes, GATHERING_S):
            come = self.store.add(CAME, 0)
            raise SqueezeError(
                f"{come} of {self.launch.processes} processes came to {self.launch.place()} in {GATHERING_S:g} s; "
                "the same torchrun command on every node would start the rest"
            )

    def call(self) -> Group:
        """Process 0 calls all others to a training."""
        self.jobs += 1
        with self._reachable():
            self.store.set(f"{JOB}/{self.jobs}", "")
        return self._group()

    def next_call(self) -> Group | None:
        """The others wait for the next training; None: there is none to come."""
        with self._reachable():
            while not self.store.check([f"{JOB}/{self.jobs + 1}"]):
                if self.store.check([OVER]):
                    return None
                time.sleep(POLL_S)
        self.jobs += 1
        return self._group()

    def end(self) -> None:
        """Process 0 ends: no training will come; what it serves itself stays until the others have read that."""
        with suppress(SqueezeError), self._reachable():  # a launcher that is gone has ended the others
            self.store.set(OVER, "")
            if not self.launch.served:
                self._in_time(lambda: self.store.add(LEFT, 0) >= self.launch.processes - 1, FAREWELL_S)

    def leave(self) -> None:
        """One of the others ends."""
        with suppress(SqueezeError), self._reachable():
            self.store.add(LEFT, 1)

    def fail(self, reason: str) -> None:
        """One of the others tells why it cannot go on."""
        with suppress(SqueezeError), self._reachable():
            self.store.set(FAILED, f"process {self.launch.rank} of {self.launch.processes}: {reason}")

    def wait_for_the_end(self) -> None:
        """Wait until process 0 ends, if it does so soon."""
        with suppress(SqueezeError):
            self._in_time(lambda: self.store.check([OVER]), FAREWELL_S)

    def failure(self) -> str | None:
        """What one of the others said before it ended; None: it was killed, or does not answer."""
        with self._reachable():
            return self.store.get(FAILED).decode() if self.store.check([FAILED]) else None

    def _answers(self) -> bool:
        """Whether the place can be reached; asked before torch does, which waits without end to Ctrl-C."""
        try:
            socket.create_connection((self.launch.host, self.launch.port), timeout=5).close()
        except OSError:
            return False
        return True

    def _group(self) -> Group:
        return Group(PrefixStore(f"{JOB}/{self.jobs}", self.store), self.launch.rank, self.launch.processes)

    def _in_time(self, is_so: Callable[[], bool], seconds: float) -> bool:
        end = time.monotonic() + seconds
        with self._reachable():
            while not is_so():
                if time.monotonic() > end:
                    return False
                time.sleep(POLL_S)
        return True

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            launch = self.launch
            raise SqueezeError(f"process {launch.rank} of {launch.processes}: {launch.place()} is gone") from error


@cache
def meeting_of_process_0(launch: Launch) -> Meeting:
    """One for all runs of a process: the others stay until the process ends, whatever it still compresses."""
    meeting = Meeting(launch)
    Finalize(None, meeting.end, exitpriority=0)  # unlike atexit also in a process that multiprocessing made
    meeting.gather()
    return meeting
