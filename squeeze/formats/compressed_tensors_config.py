"""What a compressed-tensors folder says of itself: ``quantization_config`` in ``config.json``, groups of modules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from squeeze.errors import ModelError
from squeeze.formats.grid_kind import GridKind
from squeeze.formats.patterns import pattern

METHOD = "compressed-tensors"
FORMAT = "pack-quantized"
BITS = (2, 3, 4, 8)
LINEAR = "Linear"


@dataclass(frozen=True)
class Group:
    """Modules that are stored alike; ``targets`` are names, ``re:`` patterns or ``Linear``."""

    targets: tuple[str, ...]
    bits: int
    group_size: int | None

    def matches(self, module: str) -> int:
        """How closely the group names a module: 0 not at all, 1 as any linear, 2 by pattern, 3 by name."""
        if module in self.targets:
            return 3
        patterns = [target.removeprefix("re:") for target in self.targets if target.startswith("re:")]
        if any(pattern(text).match(module) for text in patterns):
            return 2
        return int(LINEAR in self.targets)


@dataclass(frozen=True)
class PackedConfig:
    """How a folder is stored."""

    groups: tuple[Group, ...]

    def of(self, module: str) -> tuple[int, int | None]:
        """Bits and group size of one module; raises ``ModelError`` where no group names it."""
        best = max(self.groups, key=lambda group: group.matches(module))
        if not best.matches(module):
            raise ModelError(f"no group of quantization_config names {module}, which is stored packed")
        return best.bits, best.group_size


def read_config(values: Mapping[str, Any]) -> PackedConfig:
    """Understand what a folder says; raises ``ModelError`` where it holds no packed integers of weights alone."""
    groups = []
    config_groups = values.get("config_groups") or {}
    for name, group in config_groups.items() if isinstance(config_groups, dict) else ():
        form = group.get("format") or values.get("format") if isinstance(group, dict) else name
        weights = group.get("weights") if isinstance(group, dict) else None
        if form != FORMAT or not isinstance(weights, dict):
            raise ModelError(f"compressed-tensors' format '{form}' cannot be read; {FORMAT} can")
        groups.append(_group(name, group, weights))
    if not groups:
        raise ModelError("quantization_config has no config_groups")
    return PackedConfig(tuple(groups))


def config_of(kinds: Mapping[str, GridKind], left_out: list[str]) -> dict[str, Any]:
    """What a folder of these grids says of itself.

    Args:
        kinds: By module name.
        left_out: Names of linears that are not quantized.
    """
    schemes: dict[tuple[int, int | None, bool], list[str]] = {}
    for name, kind in kinds.items():
        schemes.setdefault((kind.bits, kind.group_size, kind.symmetric), []).append(name)
    alone = len(schemes) == 1
    groups = {
        f"group_{number}": {
            "targets": [LINEAR] if alone else _patterns(names, kinds),
            "weights": _weights(*scheme),
            "input_activations": None,
            "output_activations": None,
            "format": FORMAT,
        }
        for number, (scheme, names) in enumerate(schemes.items())
    }
    return {
        "quant_method": METHOD,
        "format": FORMAT,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": left_out,
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def _weights(bits: int, group_size: int | None, symmetric: bool) -> dict[str, Any]:
    """In the field's words; -1 is how it spells one group per channel."""
    return {
        "num_bits": bits,
        "type": "int",
        "symmetric": symmetric,
        "strategy": "channel" if group_size is None else "group",
        "group_size": group_size,
        "dynamic": False,
        "observer": "minmax",
    }


def _patterns(names: list[str], kinds: Mapping[str, GridKind]) -> list[str]:
    """Names as patterns over all blocks, where every block's module of that name is in the same group."""
    own = set(names)
    patterns: dict[str, None] = {}
    for name in names:
        every = re.sub(r"(?<=\\\.)\d+(?=\\\.)", r"\\d+", re.escape(name))
        alike = [other for other in kinds if re.fullmatch(every, other)]
        patterns[f"re:^{every}$" if own.issuperset(alike) else name] = None
    return list(patterns)


def _group(name: str, group: Mapping[str, Any], weights: Mapping[str, Any]) -> Group:
    bits, size, strategy = weights.get("num_bits"), weights.get("group_size"), weights.get("strategy")
    if type(bits) is not int or bits not in BITS or weights.get("type", "int") != "int":
        raise ModelError(f"{name}: weights of {weights.get('type', 'int')}{bits} cannot be read; int 2, 3, 4 and 8 can")
    if strategy not in ("group", "channel", None) or group.get("input_activations"):
        raise ModelError(f"{name}: weights by {strategy}, or with activations, cannot be read; by group or channel can")
    targets = group.get("targets") or ()
    if not isinstance(targets, list | tuple) or not all(isinstance(target, str) for target in targets):
        raise ModelError(f"{name}: targets {targets!r} is no list of names and patterns")
    try:
        for target in targets:
            if target.startswith("re:"):
                pattern(target.removeprefix("re:"))
    except ModelError as error:
        raise ModelError(f"{name}: targets: {error}") from None
    if size is not None and (type(size) is not int or (size < 1 and size != -1)):
        raise ModelError(f"{name}: group_size {size!r} is no number of input channels; 128 would be")
    return Group(tuple(targets), bits, size if size is not None and size > 0 else None)
