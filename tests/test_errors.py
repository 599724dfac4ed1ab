"""The line that a user sees, whatever a stranger's name or value brings into it."""

from __future__ import annotations

import pytest

from squeeze.errors import DataError, Fault, ModelError, PlanError
from squeeze.refused import refusal


def test_a_message_is_one_printable_line_whatever_a_name_in_it_holds() -> None:
    """Terminals act on escape codes, and half of a surrogate pair cannot be printed at all."""
    line = str(ModelError("layer 'a\nb\x1b[2J\ud800\u202e': is none"))
    assert line == "layer 'a b\ufffd[2J\ufffd\ufffd': is none"


def test_a_name_of_thousands_of_letters_does_not_hide_what_is_wrong() -> None:
    line = str(DataError(f"{'x' * 5000}: is no file; {'9' * 5000} would do"))
    assert len(line) < 700
    assert ": is no file; 9" in line


def test_each_fault_of_a_plan_keeps_a_line_of_its_own() -> None:
    error = PlanError([Fault(("a",), "first\nsecond", 3), Fault((), "third")], "plan.yaml")
    assert str(error).split("\n") == ["plan.yaml:3: first second", "plan.yaml: third"]


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (ValueError("expected a number, found 'Permission denied'"), False),
        (KeyError("No space left on device"), False),
        (RuntimeError("unable to open file <x>: Too many open files (24)"), True),
        (PermissionError(13, "Permission denied"), True),
        (FileNotFoundError(2, "No such file or directory"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_our_own_mistakes_keep_their_trace_whatever_they_quote(error: Exception, refused: bool) -> None:
    assert (refusal(error) is not None) == refused
