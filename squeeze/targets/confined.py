"""Run a command on a stranger's files with limits on time, memory, files and the network.

Run as a script, this file limits its own process and becomes the command; it needs the standard library only.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SECONDS = 60.0
BASE_BYTES = 2 << 30  # an interpreter with a runtime and its libraries, before it has read a model
MODEL_COPIES = 4  # of the model's size: as stored, unpacked, rearranged by the runtime, activations
FILE_BYTES = 1 << 30  # of a file that it writes
OPEN_FILES = 256
NEW_NETWORK = 0x40000000  # CLONE_NEWNET: a network of its own, with nothing in it
NEW_USER = 0x10000000  # CLONE_NEWUSER: what a user who is not root needs for that
OUT_OF_MEMORY = ("MemoryError", "bad_alloc", "Failed to allocate memory", "can't allocate memory")
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "OMP_NUM_THREADS")
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
        seconds: Wall clock.
        memory_bytes: Private memory; None: 2 GiB and four times the model's size.
    """

    seconds: float = SECONDS
    memory_bytes: int | None = None

    def memory_for(self, model_bytes: int) -> int:
        """The limit for a model of that size."""
        return self.memory_bytes or BASE_BYTES + MODEL_COPIES * model_bytes


class Stopped(Exception):
    """The command ended by a limit or by a signal; the message says which, without naming the package."""


@dataclass(frozen=True)
class Done:
    """What a command printed, and its exit code."""

    code: int
    out: str
    error: str


def run_confined(command: Sequence[str], limits: Limits, model_bytes: int, stdin: str = "") -> Done:
    """Run a command within the limits; whatever it has started ends with it.

    Raises:
        Stopped: by the time limit, or by a signal (most often: out of memory, or a fault in the runtime).
    """
    memory = limits.memory_for(model_bytes)
    launcher = [sys.executable, "-I", "-S", str(Path(__file__)), str(memory), *command]
    with subprocess.Popen(
        launcher,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
        text=True,
        errors="replace",
    ) as child:
        try:
            out, error = child.communicate(stdin, timeout=limits.seconds)
        except subprocess.TimeoutExpired:
            raise Stopped(f"gave no answer within {limits.seconds:g} s; --time-limit would give it more") from None
        finally:
            _end(child)
    if child.returncode and any(word in error for word in OUT_OF_MEMORY):
        raise Stopped(f"needs more than {memory:,} bytes of memory; --memory-limit would give it more")
    if child.returncode < 0:
        raise Stopped(f"ended the runtime by {signal.Signals(-child.returncode).name}")
    return Done(child.returncode, out, error)


def environment() -> dict[str, str]:
    """Of the child: nothing that the user keeps in theirs but what finds programs and libraries."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return kept | SET | {"PYTHONPATH": str(Path(__file__).parents[2])}


def _end(child: subprocess.Popen[str]) -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it and all that it started have ended
    except PermissionError:
        child.kill()


def _confine(memory_bytes: int) -> None:
    for kind, limit in (
        (resource.RLIMIT_DATA, memory_bytes),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(kind, (limit, limit))
    _leave_network()


def _leave_network() -> bool:
    """Where the kernel lets us: the limits hold without it."""
    if not sys.platform.startswith("linux"):
        return False
    unshare = ctypes.CDLL(None, use_errno=True).unshare
    return bool(unshare(NEW_NETWORK) == 0 or unshare(NEW_USER | NEW_NETWORK) == 0)


if __name__ == "__main__":
    _confine(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
