"""Processes with a launcher's variables, as torchrun starts them, that carry one plan out together."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from killing import PROCESSES

from squeeze.cli import main
from squeeze.training import meeting

PATIENCE_S = 120.0
SEVERAL = [
    f"squeeze.training.{name}"
    for name in ("group", "meeting", "peers", "helping", "synced_norm", "sharding", "sharded_checkpoint")
]


@dataclass
class Together:
    """Processes of one launch; what each prints goes to a file.

    Args:
        folder: Where these files are.
        function, arguments: What every process calls.
        processes: How many.
    """

    folder: Path
    function: Callable[..., Any]
    arguments: Sequence[Any]
    processes: int = 2
    started: list[ForkServerProcess] = field(default_factory=list)
    port: int = 0

    def start(self, *ranks: int) -> Together:
        """Start these of the processes; none named: all."""
        self.port = _free_port()
        for rank in ranks or range(self.processes):
            launch = rank, self.processes, self.port
            what = self.folder / f"printed-{rank}", launch, self.function, tuple(self.arguments)
            self.started.append(PROCESSES.Process(target=_launched, args=what, name=f"rank {rank}"))
            self.started[-1].start()
        return self

    def codes(self) -> list[int | None]:
        """How each ended; one that hangs is killed, and its code says so."""
        end = time.monotonic() + PATIENCE_S
        for process in self.started:
            process.join(max(0.0, end - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        return [process.exitcode for process in self.started]

    def printed(self, rank: int) -> list[str]:
        """Lines that a process printed."""
        return (self.folder / f"printed-{rank}").read_text().splitlines()


def alone(folder: Path, function: Callable[..., Any], *arguments: Any) -> int | None:
    """The same in one process, without a launcher; gives its exit code."""
    process = PROCESSES.Process(target=_printing, args=(folder / "printed-alone", function, arguments))
    process.start()
    process.join(PATIENCE_S)
    return process.exitcode


def wait_for(folder: Path, pattern: str) -> None:
    """Until a file of that pattern is there."""
    end = time.monotonic() + PATIENCE_S
    while not any(folder.glob(pattern)):
        assert time.monotonic() < end, f"{pattern} has not come"
        time.sleep(0.02)


def main_with_little_patience(*arguments: Any) -> None:
    """The command line, which waits two seconds for other processes."""
    meeting.GATHERING_S = 2.0
    main([str(argument) for argument in arguments])


def main_that_lists(*arguments: Any) -> None:
    """The command line; in the end, what was loaded for several processes."""
    for name in SEVERAL:
        sys.modules.pop(name, None)  # loaded beforehand, for the tests that need it
    with suppress(SystemExit):
        main([str(argument) for argument in arguments])
    print([name for name in SEVERAL if name in sys.modules])


def _launched(printed: Path, launch: tuple[int, int, int], function: Any, arguments: tuple[Any, ...]) -> None:
    names = ("RANK", "WORLD_SIZE", "MASTER_PORT")
    os.environ.update({name: str(value) for name, value in zip(names, launch, strict=True)})
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    _printing(printed, function, arguments)


def _printing(printed: Path, function: Any, arguments: tuple[Any, ...]) -> None:
    with printed.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
        with suppress(BrokenPipeError):
            function(*arguments)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
