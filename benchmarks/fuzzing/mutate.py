"""How a good input becomes a bad one: bytes, texts, JSON values and whole files, by a seeded generator."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

NUMBERS = (
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**63),
    10**30,
    17_000_000_000,
    10**6,
    0.5,
    1e300,
    -0.0,
    float("inf"),
    float("nan"),
)
TEXTS = (
    "",
    " ",
    "x" * 300,
    "x" * 5000,
    "../../etc/passwd",
    "/dev/zero",
    "a\0b",
    "\ud800",
    "\x1b[31m",
    "²",
    "nan",
    "..",
    "~",
)
VALUES = (*NUMBERS, *TEXTS, None, True, False, [], {}, [[]], [0] * 200, {"a": 1})
YAML = (
    "0x1F", "1:30", "2020-13-45", "!!binary aGk=", "!!set {a}", "&a [*a]", "9" * 5000, ".nan", "1e999", '"\\uD800"',
    '"\\0"', "<<: {a: 1}", "? [a]", "${x}", "yes", "[" * 60, "!!python/name:os.system", "{}", "[]", "~", "|", "'", "- ",
    "*a", "%", "\t",
)  # fmt: skip
LETTERS = ("²", "٣", "\ud800", "\x00", "\u2028", "\ufeff", "é", "\U0001f600", "\x85", "\x7f")


def some_bytes(random: Random, data: bytes) -> bytes:
    """Flipped, cut, doubled, filled or shuffled bytes."""
    data, at = bytearray(data), random.randrange(len(data) + 1)
    kind = random.randrange(6)
    if kind == 0:
        for _ in range(random.choice((1, 3, 30))):
            if data:
                data[random.randrange(len(data))] = random.randrange(256)
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        data[at:at] = data[at : at + random.randrange(1, 200)]
    elif kind == 3:
        data[at : at + 8] = random.choice((b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7))
    elif kind == 4:
        del data[at : at + random.randrange(1, 50)]
    else:
        data[at:at] = random.randbytes(random.choice((1, 8, 200)))
    return bytes(data)


def some_text(random: Random, text: str, snippets: tuple[str, ...] = YAML) -> str:
    """Lines and words that are doubled, dropped, exchanged or replaced."""
    for _ in range(random.choice((1, 1, 2, 4))):
        lines = text.split("\n")
        at = random.randrange(len(lines))
        kind = random.randrange(6)
        if kind == 0:
            lines[at] = _word(random, lines[at], random.choice(snippets))
        elif kind == 1:
            lines.insert(at, lines[random.randrange(len(lines))])
        elif kind == 2:
            del lines[at]
        elif kind == 3:
            lines[at] = " " * random.randrange(9) + lines[at].strip()
        elif kind == 4:
            place = random.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:place] + random.choice((*LETTERS, *snippets)) + lines[at][place:]
        else:
            lines[at] = _word(random, lines[at], str(random.choice(NUMBERS)))
        text = "\n".join(lines)
    return text


def some_json(random: Random, value: Any) -> Any:
    """Values replaced, dropped, added or nested."""
    value = deepcopy(value)
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        holders = list(_holders(value))
        if not holders:
            return random.choice(VALUES)
        holder = random.choice(holders)
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys or random.random() < 0.1:
            _add(random, holder)
        elif random.random() < 0.15:
            del holder[random.choice(keys)]
        else:
            holder[random.choice(keys)] = deepcopy(random.choice(VALUES))
    return value


def json_text(random: Random, value: Any) -> bytes:
    """A mutated JSON text: values most often, now and then its letters."""
    if random.random() < 0.8:
        return json.dumps(some_json(random, value)).encode()
    if random.random() < 0.1:
        return random.choice(("[" * 50_000, '{"a":' * 50_000, "9" * 5000, '"\\ud800"', "")).encode()
    return some_bytes(random, json.dumps(value).encode())


def some_file(random: Random, path: Path, change: Callable[[Random, bytes], bytes]) -> bool:
    """Change one file; rarely put a pipe, a device or a folder in its place. True where it is surely no good."""
    if random.random() > 0.02:
        path.write_bytes(change(random, path.read_bytes()))
        return False
    path.unlink()
    kind = random.randrange(4)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.symlink_to("/dev/zero")
    elif kind == 2:
        path.mkdir()
    return True


def _word(random: Random, line: str, new: str) -> str:
    words = line.split(" ")
    words[random.randrange(len(words))] = new
    return " ".join(words)


def _holders(value: Any) -> Any:
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value[:50]:
            yield from _holders(inner)


def _add(random: Random, holder: Any) -> None:
    value = deepcopy(random.choice(VALUES))
    if isinstance(holder, list):
        holder.append(value)
    else:
        holder[random.choice(("extra", "", "num_hidden_layers", "x" * 300))] = value
