"""A script that runs a command within limits, and ends it with the process that asked for it.

Arguments: bytes of memory, a pipe's descriptor that closes when the asking process ends, how many folders to remove
then, those folders, the command. It needs the standard library only.
"""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import signal
import sys
import threading
from collections.abc import Sequence

FILE_BYTES = 1 << 30  # largest file that it may write
OPEN_FILES = 256
NEW_NETWORK = 0x40000000  # CLONE_NEWNET: a network of its own, with nothing in it
NEW_USER = 0x10000000  # CLONE_NEWUSER: what a user who is not root needs for that
DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
LINUX = sys.platform.startswith("linux")


def launch(memory_bytes: int, alive_fd: int, folders: Sequence[str], command: Sequence[str]) -> None:
    """Run the command; end as it ends."""
    child = os.fork()
    if child == 0:
        os.close(alive_fd)
        _confine(memory_bytes)
        os.execv(command[0], list(command))
    orphaned = threading.Event()
    watch = threading.Thread(target=_end_with_parent, args=(alive_fd, child, folders, orphaned), daemon=True)
    watch.start()
    _, status = os.waitpid(child, 0)
    if orphaned.is_set():
        watch.join()
    _end_as(status)


def _end_with_parent(alive_fd: int, child: int, folders: Sequence[str], orphaned: threading.Event) -> None:
    """Wait until nobody holds the other end of the pipe; then leave neither a process nor a file behind."""
    os.read(alive_fd, 1)
    orphaned.set()
    os.kill(child, signal.SIGKILL)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


def _end_as(status: int) -> None:
    """By the same signal or with the same exit code, so that the asking process sees how the command ended."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


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
    _die_with_launcher()


def _leave_network() -> bool:
    """Where the kernel lets us: the limits hold without it."""
    if not LINUX:
        return False
    unshare = ctypes.CDLL(None, use_errno=True).unshare
    return bool(unshare(NEW_NETWORK) == 0 or unshare(NEW_USER | NEW_NETWORK) == 0)


def _die_with_launcher() -> None:
    """Where the kernel can: whoever kills the launcher kills the command."""
    if LINUX:
        ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)


def main(arguments: Sequence[str]) -> None:
    memory, alive_fd, count, *rest = arguments
    launch(int(memory), int(alive_fd), rest[: int(count)], rest[int(count) :])


if __name__ == "__main__":
    main(sys.argv[1:])
