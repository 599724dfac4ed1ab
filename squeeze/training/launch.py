"""What torchrun, or another launcher with its variables, says of the processes that it started.

Nothing is imported here and nobody is called: without a launcher a run pays for a look at the environment.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from squeeze.errors import UsageError

OF_A_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE")


@dataclass(frozen=True)
class Launch:
    """The processes that were started together.

    Args:
        rank: Which one this is; 0 leads.
        processes: How many there are.
        host, port: Where they meet.
        served: Whether the launcher itself serves the meeting place; else process 0 does.
    """

    rank: int
    processes: int
    host: str
    port: int
    served: bool

    def place(self) -> str:
        """``node0:29500``."""
        return f"{self.host}:{self.port}"


def launched() -> Launch | None:
    """The processes that this one was started with; None: it was started alone.

    Raises:
        UsageError: the variables contradict each other.
    """
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        return None
    rank, processes, port = (_number(name) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    host = os.environ.get("MASTER_ADDR")
    if not host or not 0 <= rank < processes or not 0 < port < 1 << 16:
        said = f"RANK {rank} of WORLD_SIZE {processes} at MASTER_ADDR {host or 'unset'}, MASTER_PORT {port}"
        raise UsageError(f"{said}: no processes were started so; torchrun sets all four")
    return Launch(rank, processes, host, port, os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True")


def launched_processes() -> int:
    """How many processes were started together: 1 without a launcher."""
    launch = launched()
    return 1 if launch is None else launch.processes


@contextmanager
def as_if_alone() -> Iterator[None]:
    """Hide the launcher's variables: other libraries would wait for processes that help in our trainings only."""
    hidden = {name: os.environ.pop(name) for name in OF_A_LAUNCHER if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    if not text.isdecimal():
        raise UsageError(f"{name}='{text}' is no number; torchrun sets it, and without RANK a run is of one process")
    return int(text)
