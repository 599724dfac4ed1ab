"""A writer: from a model to the files of one format, and the proof that they hold the model's own weights.

A writer is its options. What runs the files is the business of ``squeeze.runtimes``, what a package tells of them that
of ``squeeze.targets``; a target is little more than one of each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from squeeze.formats.grid_kind import GridKind
from squeeze.models.base import Model
from squeeze.writers.proof import Equality

In = TypeVar("In", bound=Model)


class Writer(ABC, Generic[In]):
    """A file format; the bracket says which models it is written from."""

    name: ClassVar[str]
    extra: ClassVar[str | None] = None  # the extra of Squeeze that it needs
    timed_as: ClassVar[str | None] = None  # the format whose measured speeds its files have; None: not measured

    def holds(self, kind: GridKind) -> str | None:
        """Why the format cannot hold such a grid, and what it could; None where it can."""
        return None

    def grid_faults(self, grid: Mapping[str, GridKind]) -> Iterator[str]:
        """The first of the grids that weights will lie on that it cannot hold; the others would say the same."""
        for name, kind in grid.items():
            if reason := self.holds(kind):
                yield f"{name}: {reason}"
                return

    def faults(self, model: In) -> Iterator[str]:
        """What else of a model it cannot write, found without weights."""
        return iter(())

    def memory_bytes(self, model: In, grid: Mapping[str, GridKind]) -> int | None:
        """The peak of writing and proving, in the process that takes most, by shapes; None: it cannot tell.

        Args:
            model: An outline is enough.
            grid: What its weights lie on by then.
        """
        return None

    @abstractmethod
    def write(self, model: In, folder: Path) -> Path:
        """Write into an empty folder; the same model gives the same bytes.

        Returns:
            The file that a runtime is pointed at; everything else in the folder goes with it.

        Raises:
            ModelError: what the format cannot hold.
        """

    def facts(self, model: In, file: Path) -> dict[str, Any]:
        """What else is worth a line in the ledger, by name; JSON values."""
        return {}

    def prove(self, model: In, file: Path) -> Iterator[Equality]:
        """Each quantized weight as another reader than ours sees it in the file; none where nothing is quantized."""
        return iter(())
