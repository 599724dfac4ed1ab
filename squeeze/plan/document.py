"""A plan file as text: YAML read safely, with the line of every value, ``${variables}`` filled in and overrides set.

What the values mean is the business of ``squeeze.plan.file``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from squeeze.errors import Fault, PlanError, did_you_mean
from squeeze.formats import plain_yaml
from squeeze.formats.plain_yaml import YamlFault

Place = tuple[str | int, ...]
LIMITS = plain_yaml.Limits()
MOST_BYTES = 1_000_000
LONGEST_NAME_BYTES = 255  # bytes of a file name, on every common file system
VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class Document:
    """A plan's values and where each stands.

    Args:
        raw: Values with overrides set and variables still named: what a package keeps.
        values: The same with variables filled in.
        lines: Place to line number, from 1.
        file: How messages name the file.
        root: Folder that relative paths start from.
    """

    raw: dict[str, Any]
    values: dict[str, Any]
    lines: Mapping[Place, int]
    file: str
    root: Path

    def line(self, place: Place) -> int | None:
        """The line of a place, or of the nearest one around it."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place)

    def located(self, faults: list[Fault]) -> list[Fault]:
        """The faults with their lines, in the order of the file."""
        located = [Fault(fault.path, fault.message, self.line(fault.path)) for fault in faults]
        return sorted(located, key=lambda fault: fault.line or 0)


def read_document(path: Path, overrides: tuple[str, ...] = (), variables: Mapping[str, str] | None = None) -> Document:
    """Read a plan file.

    Args:
        path: The YAML file.
        overrides: ``passes.0.ratio=0.5``, as ``--set`` gives them.
        variables: As ``--var`` gives them; they win over ``vars:`` and the environment.

    Raises:
        PlanError: unreadable, no mapping, a key twice, an override that points nowhere, an unknown variable.
    """
    text = _read_text(path)
    node, raw = _parse(text, str(path))
    lines, twice = _walk(node)
    for override in overrides:
        _override(raw, override)
    values, unknown = _fill(raw, dict(variables or {}))
    document = Document(raw, values, lines, str(path), path.resolve().parent)
    if faults := twice + unknown:
        raise PlanError(document.located(faults), str(path))
    return document


def _read_text(path: Path) -> str:
    try:
        if path.exists() and not path.is_dir() and not path.is_file():
            raise PlanError("is no regular file", str(path))
        if path.stat().st_size > MOST_BYTES:
            raise PlanError("larger than 1 MB; a plan is a page of YAML", str(path))
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise PlanError(f"cannot be read ({reason})", str(path)) from None


def _parse(text: str, file: str) -> tuple[yaml.Node, dict[str, Any]]:
    try:
        node = plain_yaml.compose(text, LIMITS)
        values = plain_yaml.value_of(node, LIMITS) if node is not None else None
    except YamlFault as error:
        raise PlanError([Fault((), f"{error}; a plan is a page of YAML", error.line)], file) from None
    if node is None or not isinstance(values, dict):
        raise PlanError("a plan is a mapping that begins with 'model:'; see squeeze init", file)
    return node, values


def _walk(root: yaml.Node) -> tuple[dict[Place, int], list[Fault]]:
    """Line of every place, and keys that occur twice."""
    lines: dict[Place, int] = {}
    twice: list[Fault] = []
    stack: list[tuple[Place, yaml.Node, int]] = [((), root, root.start_mark.line)]
    while stack:
        place, node, line = stack.pop()
        lines.setdefault(place, line + 1)  # of a duplicate key, the last one is popped first
        keys: set[str | int] = set()
        for key, child, at in _children(node):
            if key in keys:
                twice.append(Fault((*place, key), f"'{key}' stands twice here; one of them would be lost"))
            keys.add(key)
            stack.append(((*place, key), child, at))
    return lines, twice


def _children(node: yaml.Node) -> Iterator[tuple[str | int, yaml.Node, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield str(key.value), value, key.start_mark.line
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield index, value, value.start_mark.line


def _override(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not (path and equals):
        raise PlanError(f"'{override}' is not of the form passes.0.ratio=0.5", "--set")
    try:
        value = plain_yaml.load(text, LIMITS)
    except YamlFault as error:
        problem = str(error).removeprefix("not YAML: ")
        raise PlanError(f"{path}: {text[:80]!a} is not YAML ({problem})", "--set") from None
    *parents, last = path.split(".")
    holder: Any = values
    for part in parents:
        holder = _step(holder, part, path)
    if isinstance(holder, list):
        _step(holder, last, path)
        holder[int(last)] = value
    elif isinstance(holder, dict):
        holder[last] = value
    else:
        raise PlanError(f"{path}: '{last}' has nowhere to go; the value before it holds no options", "--set")


def _step(holder: Any, part: str, path: str) -> Any:
    if isinstance(holder, list):
        if not (part.isdecimal() and len(part) < 10) or int(part) >= len(holder):
            raise PlanError(f"{path}: no element '{part}'; there are {len(holder)}, counted from 0", "--set")
        return holder[int(part)]
    if not isinstance(holder, dict) or part not in holder:
        known = did_you_mean(part, holder) if isinstance(holder, dict) else ""
        raise PlanError(f"{path}: the plan has no '{part}'{known}", "--set")
    return holder[part]


def _fill(raw: dict[str, Any], cli_variables: dict[str, str]) -> tuple[dict[str, Any], list[Fault]]:
    """Variables filled in everywhere: from ``--var``, the plan's ``vars:``, the environment, in that order."""
    own = raw.get("vars") or {}
    faults: list[Fault] = []
    if not isinstance(own, dict) or any(isinstance(value, dict | list) for value in own.values()):
        faults.append(Fault(("vars",), f"vars: is {own!r}; names and texts, as in {{real: ../data}}, would do"))
        own = {}
    variables = {**os.environ, **{str(name): str(value) for name, value in own.items()}, **cli_variables}

    def fill(value: Any, place: Place) -> Any:
        if isinstance(value, dict):
            return {key: fill(inner, (*place, str(key))) for key, inner in value.items()}
        if isinstance(value, list):
            return [fill(inner, (*place, index)) for index, inner in enumerate(value)]
        return (
            checked(VARIABLE.sub(lambda match: look_up(match[1], place), value), place)
            if isinstance(value, str)
            else value
        )

    def checked(text: str, place: Place) -> str:
        fault = plain_yaml.text_fault(text, LIMITS.letters) or _long_name(text)
        if fault:
            faults.append(Fault(place, f"{'.'.join(map(str, place))}: {fault}"))
        return "" if fault else text

    def look_up(name: str, place: Place) -> str:
        if name not in variables:
            near = did_you_mean(name, own).removesuffix("?")
            faults.append(Fault(place, f"unknown variable '${{{name}}}'{near}; vars: or --var {name}=... would set it"))
        return variables.get(name, "")

    return fill(deepcopy(raw), ()), faults


def _long_name(text: str) -> str | None:
    """Why no file can have that name; a text with spaces is taken for prose."""
    longest = 0 if len(text.split()) > 1 else max(len(part.encode()) for part in text.split("/"))
    return (
        f"a name of {longest} bytes; file systems hold {LONGEST_NAME_BYTES}" if longest > LONGEST_NAME_BYTES else None
    )
