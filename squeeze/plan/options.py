"""What pydantic refuses, said as the plan's own faults: one per option, with the nearest right spelling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from squeeze.errors import Fault, did_you_mean
from squeeze.formats.grid_kind import GridKind
from squeeze.models.base import Model
from squeeze.models.options import Options
from squeeze.plan.document import Place

YAML_WORDS = {"a valid tuple": "a list", "a valid dictionary": "a mapping"}  # what pydantic's types are in a plan


def option_faults(error: ValidationError, cls: type[BaseModel], place: Place, what: str) -> list[Fault]:
    """One fault per option that pydantic refused, in words, with the nearest right spelling."""
    faults: dict[Place, list[str]] = {}
    for detail in error.errors():
        option = detail["loc"][:1]
        before, message = _worded(detail, cls)
        messages = faults.setdefault((*place, *option), [])
        messages.append(message if messages and before else before + message)
    return [Fault(where, f"{what}: " + " or ".join(dict.fromkeys(messages))) for where, messages in faults.items()]


def unused_faults(
    options: Options, place: Place, model: Model, grid: Mapping[str, GridKind] | None, what: str
) -> Iterator[Fault]:
    """One fault per option that is set and that nothing reads for this model, at the option."""
    for option, reason in options.set_in_vain(model, grid):
        yield Fault((*place, option), f"{what}: {option} {reason}")


def _worded(detail: Any, cls: type[BaseModel]) -> tuple[str, str]:
    """What an option is, and what it should be: a union of types complains once for each of them."""
    name = ".".join(part for part in map(str, detail["loc"]) if part.isidentifier() and "[" not in part)
    if detail["type"] == "extra_forbidden":
        return "", f"unknown option '{name}'{did_you_mean(name, cls.model_fields) if len(detail['loc']) == 1 else ''}"
    if detail["type"] == "missing":
        return "", f"option '{name}' is missing"
    message = str(detail["msg"]).removeprefix("Value error, ")
    for typed, word in YAML_WORDS.items():
        message = message.replace(typed, word)
    if not name:
        return "", message
    return f"{name} is {detail['input']!r}; ", f"{message[0].lower()}{message[1:]}"
