"""The work of confined processes, done here: each of them imports its libraries anew, which takes one second to eight.

For tests of what is said of a package. That its process starts, and what it may do there, are other tests' business.
"""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from squeeze.targets import child
from squeeze.targets.confined import Done
from squeeze.targets.verify import Package

LOAD_MODEL = Package.load_model


def work_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, what a confined process would read from its standard input is carried out in this one."""

    def answered(*call: Any) -> Done:
        _, _, _, request, *_ = call  # of run_confined
        with monkeypatch.context() as inside:
            inside.setattr(Package, "load_model", LOAD_MODEL)
            inside.setattr(sys, "stdin", io.StringIO(request))
            inside.setattr(sys, "path", list(sys.path))
            child.main()
        return Done(0, "", "")

    monkeypatch.setattr(child, "run_confined", answered)
