"""YAML as YAML 1.2's core schema reads it: texts, finite numbers, true, false, null, lists and mappings.

Every limit is enforced while nodes are read, before a value is made of them: a few hundred bytes of aliases or merge
keys stand for gigabytes. Dates, ``0x1F``, ``1:30`` and ``yes`` are texts; ``<<``, ``!!binary``, ``!!set`` are refused.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

import yaml

from squeeze.errors import first_line

CORE = "tag:yaml.org,2002:"
LARGEST_INTEGER = 2**63 - 1
MOST_DIGITS = 19
MESSAGE_LETTERS = 40  # letters of a value that a message repeats
INTEGER = re.compile(r"[-+]?[0-9]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
TRUE, FALSE, NULL = {"true", "True", "TRUE"}, {"false", "False", "FALSE"}, {"", "~", "null", "Null", "NULL"}


class YamlFault(ValueError):
    """What is wrong with a YAML text, and in which line (from 1), where one can be named."""

    def __init__(self, message: str, line: int | None = None) -> None:
        self.line = line
        super().__init__(message)


@dataclass(frozen=True)
class Limits:
    """How much a text may hold, aliases counted as often as they are used."""

    nodes: int = 20_000
    levels: int = 50
    letters: int = 4_096  # letters of one text


def load(text: str, limits: Limits | None = None) -> Any:
    """The value of a YAML text.

    Raises:
        YamlFault: not YAML, beyond the limits, or a kind of value that the core schema has not.
    """
    limits = limits or Limits()
    node = compose(text, limits)
    return None if node is None else value_of(node, limits)


def compose(text: str, limits: Limits) -> yaml.Node | None:
    """The nodes of a YAML text with their lines; None where it holds nothing."""
    try:
        return _Loader(text, limits).get_single_node()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or first_line(error)
        raise YamlFault(f"not YAML: {problem}", mark.line + 1 if mark else None) from None
    except (ValueError, OverflowError) as error:  # an escape such as "\UFFFFFFFF" that stands for no letter
        if isinstance(error, YamlFault):
            raise
        raise YamlFault(f"not YAML: {first_line(error)}") from None


def value_of(node: yaml.Node, limits: Limits) -> Any:
    """What a node stands for; an alias is a copy of its own."""
    return _Values(limits).of(node, 0)


class _Loader(yaml.SafeLoader):
    """Composes nodes as long as the limits hold; what a scalar means is decided in :func:`_scalar`."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def __init__(self, text: str, limits: Limits) -> None:
        super().__init__(text)
        self.limits, self.nodes, self.level = limits, 0, 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.nodes += 1
        self.level += 1
        line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
        _require_within(self.limits, self.nodes, self.level, line)
        node = super().compose_node(parent, index)
        self.level -= 1
        return node


class _Values:
    """Makes values of nodes and counts them."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.nodes = limits, 0

    def of(self, node: yaml.Node, level: int) -> Any:
        self.nodes += 1
        _require_within(self.limits, self.nodes, level, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            _require_tag(node, "seq")
            return [self.of(child, level + 1) for child in node.value]
        if isinstance(node, yaml.MappingNode):
            _require_tag(node, "map")
            return {self._key(key): self.of(child, level + 1) for key, child in node.value}
        return _scalar(node, self.limits)

    def _key(self, node: yaml.Node) -> str:
        """A key as it is written: numbers and ``on`` are names too."""
        line = node.start_mark.line + 1
        if not isinstance(node, yaml.ScalarNode):
            raise YamlFault("not YAML of a plain kind: a key is a list or a mapping; a name would do", line)
        if node.value == "<<" and node.style is None:
            raise YamlFault("'<<' merges another mapping, which is not read; its values written out would do", line)
        _require_tag(node, "str", "int", "float", "bool", "null")
        _require_text(node.value, self.limits, line)
        return str(node.value)


def text_fault(text: str, letters: int) -> str | None:
    """Why a text cannot be a name, a path or a word; None where it can."""
    if len(text) > letters:
        return f"a text of {len(text):,} letters; {letters:,} are the most"
    odd = next((letter for letter in text if unicodedata.category(letter) in ("Cc", "Cs") and letter not in "\t\n"), "")
    return f"{text[:MESSAGE_LETTERS]!a} holds a control character (U+{ord(odd):04X})" if odd else None


def _require_text(text: str, limits: Limits, line: int) -> None:
    if fault := text_fault(text, limits.letters):
        raise YamlFault(fault, line)


def _require_within(limits: Limits, nodes: int, level: int, line: int) -> None:
    if nodes > limits.nodes or level > limits.levels:
        raise YamlFault(f"more than {limits.nodes} values or {limits.levels} levels", line)


def _require_tag(node: yaml.Node, *tags: str) -> None:
    tag = str(node.tag)
    if tag.removeprefix(CORE) not in tags and tag not in ("!", *([CORE + "str"] if "str" in tags else [])):
        short = "!!" + tag.removeprefix(CORE) if tag.startswith(CORE) else tag
        raise YamlFault(f"{short[:MESSAGE_LETTERS]} is not read; a plain value would do", node.start_mark.line + 1)


def _scalar(node: yaml.Node, limits: Limits) -> Any:
    """Text, number, true, false or null; one in quotes is a text."""
    text, line = str(node.value), node.start_mark.line + 1
    _require_tag(node, "str", "int", "float", "bool", "null")
    _require_text(text, limits, line)
    plain = isinstance(node, yaml.ScalarNode) and node.style is None and node.tag == CORE + "str"
    tag = str(node.tag).removeprefix(CORE)
    if not plain and tag in ("str", "!"):
        return text
    value = _plain(text, line)
    kinds: dict[str, type | tuple[type, ...]] = {"int": int, "float": float, "bool": bool, "null": type(None)}
    if tag in kinds and type(value) is not kinds[tag]:
        raise YamlFault(f"!!{tag} '{text[:MESSAGE_LETTERS]}' is none", line)
    return value


def _plain(text: str, line: int) -> Any:
    if text in NULL:
        return None
    if text in TRUE or text in FALSE:
        return text in TRUE
    if INTEGER.fullmatch(text):
        return _integer(text, line)
    if NOT_FINITE.fullmatch(text):
        raise YamlFault(f"'{text}' is not finite; a number would do", line)
    return _float(text, line) if FLOAT.fullmatch(text) else text


def _integer(text: str, line: int) -> int:
    digits = text.lstrip("+-").lstrip("0")
    if len(digits) > MOST_DIGITS or abs(int(text)) > LARGEST_INTEGER:
        raise YamlFault(f"a whole number of {len(digits)} digits; {LARGEST_INTEGER} is the largest", line)
    return int(text)


def _float(text: str, line: int) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise YamlFault(f"'{text[:MESSAGE_LETTERS]}' is not finite; a number would do", line)
    return number
