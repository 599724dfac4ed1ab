"""Sizes of a ``config.json`` held against bounds before a library builds anything of them.

A model is built on the meta device, where width costs nothing; what costs is the number of modules, and tables that
code computes by position.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from squeeze.errors import ModelError

LARGEST_SIZE = 10**8  # the longest context of today is 10,485,760 tokens, the largest vocabulary 262,144
FEW_MODULES = 256  # modules that may share their tensors, as ALBERT's layers do
MOST_MODULES = 10_000
MOST_ENTRIES = 100_000  # entries of one list or mapping
LABELS = ("label2id", "id2label")
COUNTED = re.compile(r"(^|_)(layers?|blocks?|depths?|experts?|stages?|groups?|branch(es)?|hops|modules)(_|$)")
WIDTHS = re.compile(r"(size|dim|width|channels)")  # keys that name a layer's width, not a number of layers
TENSOR_NAME = re.compile(rb'"[^"\\]{1,200}"\s*:\s*\{\s*"(dtype|shape|data_offsets)"')
MOST_HEADER_BYTES = 100_000_000  # the format's own limit


def require_sizes(values: Mapping[str, Any], where: Path | str, tensors: int | None) -> None:
    """Refuse sizes that no model has.

    Args:
        values: Of a config.json, sub-configs included.
        tensors: How many the checkpoint holds; None where that is not known.

    Raises:
        ModelError: a size beyond its bound, or more layers than the checkpoint has tensors.
    """
    for name, value in _numbers(values, ""):
        if not -LARGEST_SIZE <= value <= LARGEST_SIZE:
            raise ModelError(f"{where}: {name} is {value:.6g}; {LARGEST_SIZE:,} is the largest size of a model")
        if isinstance(value, int) and value > FEW_MODULES and _counts_modules(name):
            _require_backed(name, value, where, tensors)


def stored_tensors(folder: Path) -> int | None:
    """How many tensors the safetensors files of a folder hold, counted in their headers; None where there are none."""
    files = sorted(file for file in folder.glob("*.safetensors") if file.is_file())
    return sum(_tensors_in(file) for file in files) if files else None


def _require_backed(name: str, value: int, where: Path | str, tensors: int | None) -> None:
    most = MOST_MODULES if tensors is None else min(max(tensors, FEW_MODULES), MOST_MODULES)
    if value > most:
        reason = f"{MOST_MODULES:,} are the most" if most == MOST_MODULES else f"the checkpoint holds {tensors} tensors"
        raise ModelError(f"{where}: {name} is {value}; {reason}")


def _counts_modules(name: str) -> bool:
    last = re.sub(r"\.\d+$", "", name).rpartition(".")[2]
    return bool(COUNTED.search(last)) and not WIDTHS.search(last)


def _numbers(value: Any, name: str) -> Iterator[tuple[str, int | float]]:
    """Every number of a config by its dotted name."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value
    elif isinstance(value, dict | list):
        if len(value) > MOST_ENTRIES:
            raise ModelError(f"config.json: {name} has {len(value):,} entries; {MOST_ENTRIES:,} are the most")
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if key in LABELS:
                continue  # names and numbers of classes: a class may be called anything, a stage among them
            yield from _numbers(inner, f"{name}.{key}" if name else str(key))


def _tensors_in(file: Path) -> int:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        return len(TENSOR_NAME.findall(stream.read(min(length, MOST_HEADER_BYTES))))
