"""Names of values as MIL takes them: letters, digits and ``_``, each once.

``__`` stands between an operation and its own constants alone, so that no name of a graph meets one of these.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable

WORDS = {"any", "bool", "program", "func", "tensor", "list", "dict", "tuple", "true", "false", "string", "state"}
TYPES = {f"{kind}{bits}" for kind in ("bf", "fp", "int", "uint") for bits in (1, 2, 3, 4, 6, 8, 16, 32, 64)}
RESERVED = WORDS | TYPES
WEIGHT = "__weight"


class Names:
    """The same calls give the same names."""

    def __init__(self) -> None:
        self._by_name: dict[str, str] = {}

    def of(self, name: str) -> str:
        """What a value or layer of the graph is called in the program."""
        if name not in self._by_name:
            self._by_name[name] = _unused(_plain(name), set(self._by_name.values()))
        return self._by_name[name]


def weight_names(layers: Iterable[str]) -> dict[str, str]:
    """What the weights of layers are called in the program, by layer."""
    names = Names()
    return {layer: names.of(layer) + WEIGHT for layer in layers}


def _plain(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name)
    return f"v{plain}" if not plain[:1].isalpha() else f"{plain}_" if plain in RESERVED else plain


def _unused(name: str, used: Container[str]) -> str:
    number, tried = 2, name
    while tried in used:
        number, tried = number + 1, f"{name}_{number}"
    return tried
