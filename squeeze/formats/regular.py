"""Open files of others only if they are regular: reading a pipe or a device may never end.

JSON is read with its depth, its numbers and its letters bounded; what the values mean is the caller's business.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from squeeze.errors import ModelError, SqueezeError, first_line

MOST_JSON_BYTES = 256 * 2**20  # tokenizer.json of the largest vocabularies is 35 MB
LARGEST_INTEGER = 2**63 - 1


def require_regular(path: Path, kind: type[SqueezeError] = ModelError) -> None:
    """Raise ``kind`` where ``path`` is there and is neither a regular file nor a folder, or cannot be looked at."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return  # opening the file reports the error
    except (OSError, ValueError) as error:
        raise kind(f"{_short(path)}: cannot be read ({_reason(error)})") from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise kind(f"{path}: is a pipe, a socket or a device; a regular file would do")


def require_regular_folder(folder: Path, kind: type[SqueezeError] = ModelError) -> None:
    """The same for every file of a folder that a library is about to open by itself."""
    require_regular(folder, kind)
    if folder.is_dir():
        try:
            for path in sorted(folder.iterdir()):
                require_regular(path, kind)
        except OSError as error:
            raise kind(f"{folder}: cannot be read ({_reason(error)})") from None


def read_json(path: Path, kind: type[SqueezeError] = ModelError) -> Any:
    """The value of a JSON file.

    Raises:
        SqueezeError: of ``kind``: no regular file, too large, not UTF-8, not JSON.
    """
    require_regular(path, kind)
    try:
        if path.stat().st_size > MOST_JSON_BYTES:
            raise kind(f"{path}: larger than {MOST_JSON_BYTES // 2**20} MiB; no JSON of a model is")
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise kind(f"{path}: not JSON that can be read ({_reason(error)})") from None


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: not JSON, nested too deeply, half a surrogate pair, or a number beyond 64 bits.
    """
    try:
        value = json.loads(text, parse_int=_integer)
        if "\\u" in text:
            _require_letters(value)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _integer(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) > LARGEST_INTEGER:
        raise ValueError(f"a whole number of {len(digits)} digits; {LARGEST_INTEGER} is the largest")
    return int(digits)


def _require_letters(value: Any) -> None:
    """No half of a surrogate pair, which nothing can write as UTF-8."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("a text with half of a surrogate pair") from None
    for inner in (*value, *value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ():
        _require_letters(inner)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or first_line(error))


def _short(path: Path) -> str:
    return str(path) if len(str(path)) <= 300 else f"{str(path)[:300]}..."
