"""One of our functions, run on a stranger's files in a confined process of its own.

Arguments and result are JSON, arrays come back in an .npz file without pickles: what a runtime that was taken over
might write is read as data only.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from squeeze.errors import RefusedError, SqueezeError, VerifyError, first_line, printable, relayed
from squeeze.formats.regular import parse_json
from squeeze.progress import Progress
from squeeze.refused import NO_SPACE, refusal
from squeeze.targets.confined import Limits, Stopped, run_confined
from squeeze.work import place_of_temporary_files, temporary_folder

RESULT, ARRAYS = "result.json", "arrays.npz"
MOST_ANSWER_BYTES = 64 << 20  # bytes of JSON
NO_SPACE_LEFT = os.strerror(errno.ENOSPC)
START = "from squeeze.targets.child import main; main()"


class Answer(dict[str, Any]):
    """A function's result: JSON values, and the bytes of its arrays."""

    arrays: bytes = b""


def call(
    function: str,
    arguments: Mapping[str, Any],
    limits: Limits,
    model_bytes: int,
    where: str,
    progress: Progress | None = None,
    folders: Sequence[Path] = (),
) -> Answer:
    """Call ``module:function`` in a confined process.

    Args:
        function: Takes ``scratch``, a folder for its arrays, and ``arguments``; returns a dict of JSON values.
        where: The package, for messages.
        progress: Shows what the function reports, if it does; each report gives it the time limit anew.
        folders: Removed if this process is killed meanwhile.

    Raises:
        VerifyError: a limit was reached, the process died, or the runtime refuses the model.
        SqueezeError: of the kind that the function raised.
    """
    with temporary_folder("child") as scratch:
        call = {"function": function, "scratch": str(scratch), "arguments": dict(arguments), "path": _path()}
        request = json.dumps(call)
        try:
            command = [sys.executable, "-P", "-c", START]
            done = run_confined(command, limits, model_bytes, request, progress, [scratch, *folders])
        except Stopped as stopped:
            raise VerifyError(f"{where}: {stopped}") from None
        if not (scratch / RESULT).is_file():
            raise _no_answer(where, done.error)
        answer = _answer(scratch / RESULT, where)
        if "error" in answer:
            raise _error(answer)
        if (scratch / ARRAYS).is_file():
            answer.arrays = (scratch / ARRAYS).read_bytes()
        return answer


def main() -> None:
    """In the child: read which function from standard input, call it, write what it gives."""
    request = json.load(sys.stdin)
    sys.path[:] = request["path"]
    scratch = Path(request["scratch"])
    module, _, name = request["function"].partition(":")
    try:
        result = getattr(import_module(module), name)(scratch=scratch, **request["arguments"])
    except SqueezeError as error:
        result = {"error": str(error), "kind": type(error).__name__}
    except OSError as error:
        if (refused := refusal(error)) is None:
            raise
        result = {"error": refused, "kind": RefusedError.__name__}
    part = scratch / f"{RESULT}.part"
    part.write_text(json.dumps(result))
    part.replace(scratch / RESULT)


def _path() -> list[str]:
    """Where this process finds modules: the user's own, which a plan may name, are not where Squeeze is."""
    return [str(Path(place).resolve()) for place in sys.path]


def _no_answer(where: str, stderr: str) -> SqueezeError:
    """No result was written: the process died, or the disk of temporary files is full."""
    last = _last_line(stderr)
    if NO_SPACE_LEFT in last:
        return RefusedError(f"{place_of_temporary_files()}: {NO_SPACE}")
    return VerifyError(f"{where}: the runtime's process gave no answer ({last})")


def _answer(file: Path, where: str) -> Answer:
    """The answer that the process wrote, checked: the process ran a stranger's model."""
    try:
        if file.stat().st_size <= MOST_ANSWER_BYTES and isinstance(values := parse_json(file.read_text()), dict):
            return Answer(values)
    except (OSError, ValueError):
        pass
    raise VerifyError(f"{where}: the runtime's process gave no answer that can be read; make the package again")


def _error(answer: Mapping[str, Any]) -> SqueezeError:
    lines = [printable(line) for line in str(answer["error"]).splitlines()]
    return relayed(str(answer.get("kind")), "\n".join(lines))


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return first_line(ValueError(lines[-1])) if lines else "it said nothing"
