"""Types and defaults of options in a plan's own words: ``number, above 0 and below 1, or null``."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

PLAIN = {bool: "true or false", int: "integer", float: "number", str: "text", NoneType: "null"}
BOUNDS = {"gt": "above", "ge": "from", "lt": "below", "le": "up to"}


def type_in_words(field: FieldInfo) -> str:
    return _words(field.annotation) + _bounds(field.metadata)


def default_in_words(field: FieldInfo) -> str:
    """As a plan would write it."""
    if field.is_required():
        return "required"
    return f"= {json.dumps(field.get_default(call_default_factory=True), default=_plain)}"


def _words(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(parts[0]) + _bounds(parts[1:])
    if origin in (Union, UnionType):
        return ", or ".join(_words(part) for part in parts)
    if origin is Literal:
        return " | ".join(str(part) for part in parts)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"{{{_words(parts[0])}: {_words(parts[1])}}}"
    if isinstance(origin, type) and issubclass(origin, Collection):
        return f"list of {_words(parts[0])}"
    return PLAIN.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _bounds(metadata: Collection[Any]) -> str:
    """``, above 0 and below 1``."""
    bounds = [(word, getattr(one, name, None)) for one in metadata for name, word in BOUNDS.items()]
    known = [f"{word} {bound:g}" for word, bound in bounds if bound is not None]
    return f", {' and '.join(known)}" if known else ""


def _plain(value: Any) -> Any:
    """What JSON has no word for: a set, or options of options."""
    return sorted(value) if isinstance(value, set | frozenset) else value.model_dump(mode="json")
