"""What the operating system refuses, as one line: where, what, and what would help.

Only what lies outside of us: a full or read-only disk, permissions, limits on files. Any other ``OSError`` is our own
mistake and keeps its trace.
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from squeeze.errors import RefusedError

NO_SPACE = "the disk is full; space there, or --store and --out on another disk would do"
HELP = {
    errno.ENOSPC: NO_SPACE,
    errno.EDQUOT: "the disk quota is used up; space there, or --store and --out on another disk would do",
    errno.EROFS: "the disk is read-only; --store and --out on another disk would do",
    errno.EACCES: "no permission; the right to write there, or another --store or --out would do",
    errno.EPERM: "not permitted; the right to write there, or another --store or --out would do",
    errno.EFBIG: "the file is larger than this process may write; a higher `ulimit -f` would do",
    errno.EMFILE: "too many open files; `ulimit -n 1024` would do",
    errno.ENFILE: "too many open files on this machine; fewer processes would do",
    errno.ENAMETOOLONG: "longer than a file system holds; names of 255 bytes would do",
    errno.EIO: "the disk does not answer; a sound one would do",
}
SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # numpy's, which carries no error number
NUMBER = re.compile(r"\(os error (\d+)\)")  # safetensors'


@contextmanager
def one_line_if_refused(folder: Path) -> Iterator[None]:
    """Turn a refusal into ``RefusedError``; ``folder`` is named where the system names no file."""
    try:
        yield
    except Exception as error:
        if (line := refusal(error, folder)) is None:
            raise
        raise RefusedError(line) from error


def refusal(error: BaseException, folder: Path | None = None) -> str | None:
    """``where: what; what would help``, or None for an error that is no refusal of the system's."""
    number = _number(error)
    if number not in HELP:
        return None
    where = getattr(error, "filename", None) or folder
    return f"{where}: {HELP[number]}" if where is not None else HELP[number]


def _number(error: BaseException) -> int | None:
    text = str(error)
    if isinstance(error, OSError):
        return errno.ENOSPC if error.errno is None and SHORT_WRITE.search(text) else error.errno
    if isinstance(error, ImportError) and "Too many open files" in text:
        return errno.EMFILE
    safetensors = sys.modules.get("safetensors")
    if safetensors is not None and isinstance(error, safetensors.SafetensorError) and (found := NUMBER.search(text)):
        return int(found[1])
    return None
