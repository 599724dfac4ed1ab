"""One way in for what a stranger made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from random import Random
from typing import ClassVar


class WronglyAcceptedError(Exception):
    """What came out shows that something was let in."""


class Door(ABC):
    """One way in."""

    name: ClassVar[str]
    share: ClassVar[float] = 1.0  # of the inputs that each door gets; less where one takes long

    @abstractmethod
    def write(self, folder: Path) -> None:
        """A good input."""

    @abstractmethod
    def spoil(self, random: Random, folder: Path) -> bool:
        """Make it bad; True where nothing may accept it any more."""

    def enter_good(self, folder: Path) -> None:
        """The good input, which must be let in."""
        self.enter(folder)

    @abstractmethod
    def enter(self, folder: Path) -> object:
        """What a command does first with it.

        Raises:
            SqueezeError: it is refused, in one line.
            WronglyAcceptedError: it is not, and ought to be.
        """
