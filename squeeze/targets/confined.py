"""Run a command on a stranger's files with limits on time, memory, files and the network.

The command ends when the process that asked for it ends, however that happens: ``launcher`` sees to it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from squeeze.progress import Progress
from squeeze.targets import launcher
from squeeze.targets.reports import PIPE, read_reports, show_reports

MODEL_COPIES = 4  # copies of the model: stored, unpacked, rearranged by the runtime, activations
OUT_OF_MEMORY = ("MemoryError", "bad_alloc", "Failed to allocate memory", "can't allocate memory")
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "OMP_NUM_THREADS")
SET = {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "GPTQMODEL_CPU_WORKERS": "2",
}


@dataclass(frozen=True)
class Limits:
    """What a stranger's model may take.

    Args:
        seconds: Wall clock, counted anew from each report of progress.
        memory_bytes: Private memory; None: ``base_bytes`` and four times the model's size.
        base_bytes: What the process takes before it reads a model.
    """

    seconds: float = 60.0
    memory_bytes: int | None = None
    base_bytes: int = 2 << 30

    def memory_for(self, model_bytes: int) -> int:
        return self.memory_bytes or self.base_bytes + MODEL_COPIES * model_bytes


SCORING = Limits(seconds=600.0, base_bytes=8 << 30)  # time per batch; memory for torch, data and two batches of logits


class Stopped(Exception):
    """The command ended by a limit or by a signal; the message says which, without naming the package."""


@dataclass(frozen=True)
class Done:
    """What a command printed, and its exit code."""

    code: int
    out: str
    error: str


def run_confined(
    command: Sequence[str],
    limits: Limits,
    model_bytes: int,
    stdin: str = "",
    progress: Progress | None = None,
    folders: Sequence[Path] = (),
) -> Done:
    """Run a command within the limits; whatever it has started ends with it.

    Args:
        progress: Shows what the command reports; each report gives it the time limit anew.
        folders: The first holds its temporary files; all are removed if this process is killed before the command ends.

    Raises:
        Stopped: by the time limit, or by a signal (most often: out of memory, or a fault in the runtime).
    """
    memory = limits.memory_for(model_bytes)
    with ExitStack() as unread, ExitStack() as ours, ExitStack() as theirs:
        heard, reporting = _pipe(unread, theirs)
        ends, _ = _pipe(theirs, ours)
        limited = [str(memory), str(ends.fileno()), str(len(folders)), *map(str, folders)]
        report_fd = reporting.fileno() if progress else None
        variables = environment(folders[0] if folders else None, report_fd)
        child = _started([*limited, *command], variables, (ends.fileno(), report_fd))
        theirs.close()
        with child:
            reports = _Reports(heard, progress)
            unread.pop_all()  # the reader thread closes the pipe
            try:
                out, error = _communicate(child, stdin, limits.seconds, reports)
            finally:
                _end(child)
                reports.join()
    if child.returncode and any(word in error for word in OUT_OF_MEMORY):
        raise Stopped(f"needs more than {memory:,} bytes of memory; --memory-limit would give it more")
    if child.returncode < 0:
        raise Stopped(f"ended the runtime by {signal.Signals(-child.returncode).name}")
    return Done(child.returncode, out, error)


def _started(
    arguments: Sequence[str], variables: dict[str, str], open_files: Sequence[int | None]
) -> subprocess.Popen[str]:
    """The launcher, in a session of its own; it keeps these files open."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", launcher.__file__, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=variables,
        pass_fds=[number for number in open_files if number is not None],
        start_new_session=True,
        text=True,
        errors="replace",
    )


def environment(temporary: Path | None = None, reporting: int | None = None) -> dict[str, str]:
    """The child's environment: only variables that find programs and libraries."""
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    own = {"PYTHONPATH": str(Path(__file__).parents[2])}
    own |= {} if temporary is None else {"TMPDIR": str(temporary)}
    return inherited | SET | own | ({} if reporting is None else {PIPE: str(reporting)})


class _Reports:
    """What a child reports, shown by a thread, and when it last did."""

    def __init__(self, pipe: IO[bytes], progress: Progress | None) -> None:
        self.watched, self.last = progress is not None, time.monotonic()
        self._thread = threading.Thread(target=self._show, args=(pipe, progress or Progress()), daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Show the last of them; a pipe that somebody still holds is left."""
        self._thread.join(timeout=5)

    def _show(self, pipe: IO[bytes], progress: Progress) -> None:
        with pipe:
            show_reports(self._stamped(pipe), progress)

    def _stamped(self, pipe: IO[bytes]) -> Iterator[dict[str, Any]]:
        for report in read_reports(pipe):
            self.last = time.monotonic()
            yield report


def _communicate(child: subprocess.Popen[str], stdin: str, seconds: float, reports: _Reports) -> tuple[str, str]:
    """Standard output and error, unless nothing is reported for too long."""
    text: str | None = stdin
    while (remaining_s := reports.last + seconds - time.monotonic()) > 0:
        try:
            return child.communicate(text, timeout=remaining_s)
        except subprocess.TimeoutExpired:
            text = None  # communicate() goes on sending the rest
    what = "finished no batch" if reports.watched else "gave no answer"
    raise Stopped(f"{what} within {seconds:g} s; --time-limit would give it more")


def _pipe(readers: ExitStack, writers: ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    """Where to read and where to write; each goes with its stack."""
    reader, writer = os.pipe()
    return readers.enter_context(os.fdopen(reader, "rb")), writers.enter_context(os.fdopen(writer, "wb"))


def _end(child: subprocess.Popen[str]) -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # the child and its descendants have ended
    except PermissionError:
        child.kill()
