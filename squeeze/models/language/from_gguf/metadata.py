"""A file's metadata by key, each value of the type that it must have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squeeze.errors import ModelError
from squeeze.formats.gguf_header import Header

ARCHITECTURE = "general.architecture"
LARGEST = 10**9
Number = int | float


@dataclass(frozen=True)
class Metadata:
    """Metadata and tensors of a file, for messages with its name.

    Raises:
        ModelError: each of the getters, where a value is missing or of another type.
    """

    path: Path
    header: Header

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the family."""
        return self.text(ARCHITECTURE)

    def has(self, tensor: str) -> bool:
        """Whether the file holds such a tensor."""
        return tensor in self.header.tensors

    def key(self, name: str) -> str:
        """``llama.block_count``: a key of the architecture's own."""
        return name if name.startswith(("general.", "tokenizer.", "split.")) else f"{self.architecture}.{name}"

    def text(self, name: str, default: str | None = None) -> str:
        value: str = self._of(name, str, default, "a text")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value: bool = self._of(name, bool, default, "true or false")
        return value

    def integer(self, name: str, default: int | None = None) -> int:
        value: int = self._of(name, int, default, "a whole number")
        if isinstance(value, bool) or not 0 <= value <= LARGEST:
            raise ModelError(f"{self.path}: {self.key(name)} is {value!r}; a number from 0 to {LARGEST:,} would do")
        return value

    def real(self, name: str, default: float | None = None) -> float:
        value = float(self._of(name, Number, default, "a number"))
        if not math.isfinite(value):
            raise ModelError(f"{self.path}: {self.key(name)} is {value}; a finite number would do")
        return value

    def array(self, name: str, kind: Any, default: list[Any] | None = None) -> list[Any]:
        values: list[Any] = self._of(name, list, default, "a list")
        if not all(isinstance(value, kind) for value in values):
            raise ModelError(f"{self.path}: {self.key(name)} holds values that are no {kind.__name__}")
        return values

    def get(self, name: str) -> Any:
        """The value as it is; None where there is none."""
        return self.header.metadata.get(self.key(name))

    def _of(self, name: str, kind: Any, default: Any, expected: str) -> Any:
        key = name if name == ARCHITECTURE else self.key(name)
        value = self.header.metadata.get(key, default)
        if value is None:
            raise ModelError(f"{self.path}: the metadata lacks {key}; {expected} would do")
        if not isinstance(value, kind):
            raise ModelError(f"{self.path}: {key} is {value!r:.60}; {expected} would do")
        return value
