"""Device profiles: what a device grants a package, what its data sheet says of speed; figures with sources.

Built-in profiles lie in ``profiles/``; a plan may name a ``.yaml`` file of its own. Whether a package fits, and how
fast it may be, is the business of ``fit``.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

from annotated_types import Gt, Len
from pydantic import FiniteFloat, ValidationError
from yaml import YAMLError

from squeeze.errors import ModelError, UsageError, did_you_mean, first_line
from squeeze.formats import plain_yaml
from squeeze.formats.tensor_spec import Record
from squeeze.targets.rates import Measured, Speeds

SUFFIXES = (".yaml", ".yml")
LARGEST_BYTES = 1 << 16  # bytes of a profile file


class Figure(Record):
    """A number and where it comes from."""

    value: Annotated[FiniteFloat, Gt(0)]
    source: Annotated[str, Len(8, 300)]


class Device(Record):
    """A device as a plan can name it.

    Args:
        storage_bytes, memory_bytes: What one app may take.
        cores: Those that a runtime should use.
        bandwidth_bytes_per_s, int8_macs_per_s, float_macs_per_s: Peaks, which no program reaches.
        weights_in_storage: Whether weights are read where they lie (flash), so that memory holds activations only.
        read_bytes_per_s: Of memory by the bytes that are read again and again; the smaller ones stay in a cache.
        measured: Speeds of layers by the format of the file, where they were measured (``squeeze bench --profile``).
    """

    title: Annotated[str, Len(1, 100)]
    storage_bytes: Figure
    memory_bytes: Figure
    cores: Figure
    bandwidth_bytes_per_s: Figure
    int8_macs_per_s: Figure
    float_macs_per_s: Figure
    battery_wh: Figure | None = None
    weights_in_storage: bool = False
    read_bytes_per_s: Speeds | None = None
    measured: dict[str, Measured] = {}

    def times(self, format_: str | None) -> str | None:
        """The same where layers of such files were measured; None where they were not."""
        return format_ if format_ in self.measured and self.read_bytes_per_s is not None else None


def names() -> list[str]:
    """Of the built-in profiles."""
    return sorted(file.name.removesuffix(".yaml") for file in _folder().iterdir() if file.name.endswith(".yaml"))


def load(name: str, root: Path) -> Device:
    """A built-in profile, or a file (``.yaml``) relative to ``root``.

    Raises:
        UsageError: there is none of that name (says the nearest), or the file is no profile.
    """
    if not name.endswith(SUFFIXES):
        if name not in names():
            raise UsageError(f"no device '{name}'{did_you_mean(name, names())}; squeeze devices lists them")
        return _parsed(_folder().joinpath(f"{name}.yaml").read_text(), name)
    file = root / name
    if not file.is_file() or file.stat().st_size > LARGEST_BYTES:
        raise UsageError(f"{file}: no profile of a device; a file of at most {LARGEST_BYTES:,} bytes would do")
    try:
        return _parsed(file.read_text(encoding="utf-8"), str(file))
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: no profile of a device ({first_line(error)}); text in UTF-8 would do") from None


def _folder() -> Path:
    return Path(str(files("squeeze.targets") / "profiles"))


def _parsed(text: str, where: str) -> Device:
    try:
        return Device.model_validate(plain_yaml.load(text))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise UsageError(f"{where}: {place}: {first['msg']}; squeeze devices NAME shows a profile") from None
    except (YAMLError, ValueError, ModelError) as error:
        raise UsageError(f"{where}: no YAML ({first_line(error)})") from None
