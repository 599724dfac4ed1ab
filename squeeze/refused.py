"""What the operating system refuses, as one line: where, what, and what would help.

Only what lies outside of us: a full or read-only disk, permissions, limits on files, as an ``OSError`` or in the words
of a library's own error. Any other error is our own mistake and keeps its trace.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from squeeze.errors import RefusedError, SqueezeError

ELSEWHERE = "--store, --out and TMPDIR on another disk would do"
NO_SPACE = f"the disk is full; space there, or {ELSEWHERE}"
HELP = {
    errno.ENOSPC: NO_SPACE,
    errno.EDQUOT: f"the disk quota is used up; space there, or {ELSEWHERE}",
    errno.EROFS: f"the disk is read-only; {ELSEWHERE}",
    errno.EACCES: "no permission; the right to write there, or another --store or --out would do",
    errno.EPERM: "not permitted; the right to write there, or another --store or --out would do",
    errno.EFBIG: "the file is larger than this process may write; a higher `ulimit -f` would do",
    errno.EMFILE: "too many open files; `ulimit -n 1024` would do",
    errno.ENFILE: "too many open files on this machine; fewer processes would do",
    errno.ENAMETOOLONG: "longer than a file system holds; names of 255 bytes would do",
    errno.EISDIR: "a folder lies where a file belongs; removing it, or another --store or --out, would do",
    errno.ENOTDIR: "a file lies where a folder belongs; removing it, or another --store or --out, would do",
    errno.EIO: "the disk does not answer; a sound one would do",
}
SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # numpy's message, which has no error number
OF_THIS_HOST = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EMFILE, errno.ENFILE}
OUR_MISTAKES = (AssertionError, AttributeError, LookupError, NameError, TypeError, ValueError)  # quoted or not
LIBRARY_MESSAGES = {os.strerror(number): number for number in HELP}  # messages of libraries whose errors have no number


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


def is_of_this_host(error: BaseException) -> bool:
    """Whether it is a refusal that no content of a file can bring about, however it was made."""
    return _number(error) in OF_THIS_HOST


def _number(error: BaseException) -> int | None:
    text = str(error)
    if isinstance(error, (SqueezeError, *OUR_MISTAKES)):
        return None
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if isinstance(error, OSError) and SHORT_WRITE.search(text):
        return errno.ENOSPC
    return next((number for words, number in LIBRARY_MESSAGES.items() if words in text), None)
