"""What can go wrong by the user's hand: one line per fault, where - what - what would be right.

Each kind knows its exit code. Our own mistakes are asserts and keep their trace.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

LONGEST_WORD, LONGEST_LINE = 300, 2000  # letters; a file's whole path is shorter


class SqueezeError(Exception):
    """The user's fault, or the world's: shown as one line, without a trace.

    Whatever names and values of strangers a message repeats, the line stays one, printable and of bounded length.
    """

    exit_code: int = 1

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(map(one_line, lines)))


class ModelError(SqueezeError):
    """A model cannot be read, built or stored."""


class ShapeError(SqueezeError):
    """A tensor's shape does not fit what is asked of it."""


class DataError(SqueezeError):
    """Evaluation, calibration or training data cannot serve."""


class MissingExtra(SqueezeError):
    """An optional package is needed and absent; the message names the extra to install."""

    exit_code = 2


class EffectError(SqueezeError):
    """A pass ran and did not do what it promises."""


class StoreError(SqueezeError):
    """The store on disk cannot be used."""


class RefusedError(SqueezeError):
    """The operating system refuses: the disk is full or read-only, permission or open files are lacking."""


class Terminated(BaseException):
    """The process was asked to end (SIGTERM); like ``KeyboardInterrupt`` no ``except Exception`` stops it."""


class UsageError(SqueezeError):
    """The command line or an API call asks for something that does not exist."""

    exit_code = 2


class BudgetBroken(SqueezeError):
    """The result is measured and lies outside the plan's budget."""

    exit_code = 3


class VerifyError(SqueezeError):
    """A package is not what its manifest says."""

    exit_code = 4


@dataclass(frozen=True)
class Fault:
    """One thing wrong in a plan: where (a path into the plan, ``("passes", 0, "ratio")``) and what."""

    path: tuple[str | int, ...]
    message: str
    line: int | None = None

    def located(self, file: str) -> str:
        """``file:line: message``, as far as the place is known."""
        if self.line is not None:
            return f"{file}:{self.line}: {self.message}"
        return f"{file}: {self.message}"

    def at_line(self) -> str:
        """``line 12: message``, for what is said of one plan that everybody knows."""
        return self.message if self.line is None else f"line {self.line}: {self.message}"


class PlanError(SqueezeError):
    """A plan is wrong; carries every fault found, not the first one only."""

    exit_code = 2

    def __init__(self, faults: Iterable[Fault] | str, file: str = "plan") -> None:
        self.faults = [Fault((), faults)] if isinstance(faults, str) else list(faults)
        super().__init__(*(fault.located(file) for fault in self.faults))


def relayed(kind: str, message: str) -> SqueezeError:
    """An error that a confined process raised about a package; a model that does not run is the package's fault."""
    own = {error.__name__: error for error in (DataError, MissingExtra, RefusedError, StoreError, UsageError)}
    return (own | {PlanError.__name__: UsageError}).get(kind, VerifyError)(message)


def first_line(error: BaseException, most: int = 200) -> str:
    """What an exception of another library says, on one line; its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return printable(lines[0][:most]) if lines else type(error).__name__


def all_lines(error: BaseException, most: int = 200) -> str:
    """All that an exception of another library says, on one line: runtimes give the reason behind the first."""
    return " ".join(str(error).split())[:most]


def printable(text: str) -> str:
    """Text from a stranger, for screens and reports: without control characters, such as a terminal's codes."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else " " if letter.isspace() else "\ufffd" for letter in text)


def one_line(text: str) -> str:
    """The same, with words and all of it cut in the middle where nobody would read them whole."""
    words = re.sub(rf"\S{{{LONGEST_WORD + 1},}}", lambda word: _cut(word[0], LONGEST_WORD), printable(text))
    return _cut(words, LONGEST_LINE)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most * 2 // 3]}...{text[-most // 4 :]}"


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """``"; did you mean 'x'?"`` for the nearest known name, else the list of what there is, else nothing."""
    choices = sorted({str(choice) for choice in known})
    near = get_close_matches(str(name), choices, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    if 0 < len(choices) <= 12:
        return f"; there is {', '.join(choices)}"
    return ""
