"""What a GPTQ checkpoint says of itself: ``quantize_config.json``, and ``quantization_config`` in ``config.json``.

Read with the keys of every age: auto-gptq's (no ``checkpoint_format``, ``is_marlin_format``, ``model_file_base_name``,
``group_size: -1``), and gptqmodel's (``checkpoint_format`` or ``format``, ``dynamic`` by module).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from squeeze.errors import ModelError
from squeeze.formats.gptq_checkpoint import BITS
from squeeze.formats.grid_kind import GridKind
from squeeze.formats.patterns import pattern

FILE = "quantize_config.json"
VERSIONS = {"gptq": 1, "gptq_v2": 2}


@dataclass(frozen=True)
class GptqConfig:
    """How a checkpoint is stored.

    Args:
        group_size: None = per-channel.
        overrides: By pattern of module names, what is otherwise there; an empty mapping: not quantized.
        base_name: The name of the only shard, less its ending, where one is said.
    """

    bits: int
    group_size: int | None
    version: int
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    base_name: str | None = None

    def of(self, module: str) -> tuple[int, int | None]:
        """Bits and group size of one module."""
        for text, values in self.overrides.items():
            if not text.startswith("-:") and pattern(text.removeprefix("+:")).match(module):
                return int(values.get("bits", self.bits)), _group(values.get("group_size", self.group_size))
        return self.bits, self.group_size


def read_config(values: Mapping[str, Any]) -> GptqConfig:
    """Understand what a checkpoint says; raises ``ModelError`` where layout, width or group size are not known."""
    layout = str(values.get("checkpoint_format") or values.get("format") or "gptq")
    if values.get("is_marlin_format") or layout not in VERSIONS:
        layout = "marlin" if values.get("is_marlin_format") else layout
        raise ModelError(f"checkpoint_format '{layout}' cannot be read; gptq and gptq_v2 can")
    bits: Any = values.get("bits")
    size = values.get("group_size", -1)
    if not _is_width(bits):
        raise ModelError(f"bits {bits!r} cannot be read; 2, 3, 4 and 8 can")
    if not _is_group(size):
        raise ModelError(f"group_size {size!r} is no number of input channels; 128, or -1 for one group, would be")
    overrides = values.get("dynamic") or {}
    if not isinstance(overrides, dict):
        raise ModelError("dynamic is no mapping of module patterns to options")
    for text, other in overrides.items():
        _require_readable(text, other, bits, size)
    return GptqConfig(bits, _group(size), VERSIONS[layout], overrides, values.get("model_file_base_name"))


def config_of(kinds: Mapping[str, GridKind], left_out: list[str], version: int, quantizer: str) -> dict[str, Any]:
    """What a checkpoint of these grids says of itself.

    Args:
        kinds: By module name; what most modules have becomes the rule, the others are named one by one.
        left_out: Names of linears that are not quantized.
        quantizer: Who wrote it, ``squeeze:0.1.0``.
    """
    rule = Counter((kind.bits, kind.group_size, kind.symmetric) for kind in kinds.values()).most_common(1)[0][0]
    dynamic: dict[str, dict[str, Any]] = {f"-:{exactly(name)}": {} for name in left_out}
    for name, kind in kinds.items():
        if (kind.bits, kind.group_size, kind.symmetric) != rule:
            dynamic[f"+:{exactly(name)}"] = _options(kind.bits, kind.group_size, kind.symmetric)
    layout = next(name for name, number in VERSIONS.items() if number == version)
    return {
        "quant_method": "gptq",
        **_options(*rule),
        "desc_act": any(kind.ordered for kind in kinds.values()),
        "checkpoint_format": layout,
        "format": layout,
        "pack_dtype": "int32",
        "lm_head": "lm_head" in kinds,
        **({"dynamic": dynamic} if dynamic else {}),
        "meta": {"quantizer": [quantizer]},
    }


def exactly(name: str) -> str:
    """A pattern that only this module name matches."""
    return "^" + name.replace(".", r"\.") + "$"


def _require_readable(text: str, other: Any, bits: int, size: int | None) -> None:
    """An override that can be followed: a pattern, options of known values."""
    try:
        pattern(text.removeprefix("+:").removeprefix("-:"))
    except ModelError as error:
        raise ModelError(f"dynamic: {error}") from None
    if text.startswith("-:"):
        return
    if not isinstance(other, dict) or not _is_width(other.get("bits", bits)):
        raise ModelError(f"dynamic '{text}': {other!r} cannot be read; bits 2, 3, 4 and 8 can")
    group = other.get("group_size", size)
    if not _is_group(group):
        raise ModelError(f"dynamic '{text}': group_size {group!r} is no number of input channels")


def _is_width(bits: Any) -> bool:
    return type(bits) is int and bits in BITS


def _is_group(size: Any) -> bool:
    """A number of input channels, or -1 for all of them; true and 4.0 are none."""
    return size is None or (type(size) is int and (size > 0 or size == -1))


def _options(bits: int, group_size: int | None, symmetric: bool) -> dict[str, Any]:
    return {"bits": bits, "group_size": -1 if group_size is None else group_size, "sym": symmetric}


def _group(size: int | None) -> int | None:
    return None if size is None or size < 0 else int(size)
