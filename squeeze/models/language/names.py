"""What a checkpoint calls a module's tensors: as transformers itself renames them, experts stored one by one included.

The rules are transformers' own (``conversion_mapping``), so there is no table of families here. A rule that mixes
tensors in another way than laying experts on top of each other is not followed; its tensors are then missing, by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from squeeze.models.pieces import Piece, Stacked


@dataclass
class StoredNames:
    """Where each tensor of the module is stored: in one piece, or expert by expert."""

    alone: dict[str, str] = field(default_factory=dict)  # the module's name: the stored one
    stacked: dict[str, Stacked] = field(default_factory=dict)


def find(module: nn.Module, tensors: list[str], pieces: Mapping[str, Piece]) -> StoredNames:
    """Match stored names to those of the module.

    Args:
        module: A transformers model; may be on the meta device.
        tensors: Names of its tensors.
    """
    from transformers.core_model_loading import dot_natural_key

    stored_names, names = StoredNames(), set(tensors)
    experts: dict[str, dict[str, list[Piece]]] = {}  # module's name, rule's pattern: pieces in the order of experts
    rename = _Rules(module)
    for stored in sorted(pieces, key=dot_natural_key):
        name, pattern = (stored, None) if stored in names else rename(stored)
        if name not in names:
            continue
        if pattern is None:
            stored_names.alone[name] = stored
        else:
            experts.setdefault(name, {}).setdefault(pattern, []).append(pieces[stored])
    for name, parts in experts.items():
        in_order = [parts[pattern] for pattern in sorted(parts, key=rename.place)]  # gate before up
        stored_names.stacked[name] = Stacked(tuple(zip(*in_order, strict=False)))  # too few experts show in the shape
    return stored_names


def as_stored(module: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the names, and in the pieces, in which checkpoints of this family store them."""
    from transformers.core_model_loading import revert_weight_conversion

    values: dict[str, Tensor] = revert_weight_conversion(module, dict(tensors))
    return values


class _Rules:
    """Transformers' rules for one model; called with a stored name, says the module's and the experts' pattern."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    @cached_property
    def rules(self) -> list[Any]:
        """Of all kinds; a folder that stores the module's own names needs none, and the first costs a second."""
        from transformers.conversion_mapping import get_model_conversion_mapping

        return list(get_model_conversion_mapping(self.module))

    @cached_property
    def renamings(self) -> list[Any]:
        from transformers.core_model_loading import WeightRenaming

        return [rule for rule in self.rules if isinstance(rule, WeightRenaming)]

    @cached_property
    def converters(self) -> list[Any]:
        from transformers.core_model_loading import WeightConverter

        return [rule for rule in self.rules if isinstance(rule, WeightConverter) and _stacks(rule)]

    @cached_property
    def state(self) -> dict[str, Tensor]:
        return self.module.state_dict()

    def __call__(self, stored: str) -> tuple[str, str | None]:
        from transformers.core_model_loading import rename_source_key

        renaming: tuple[str, str | None] = rename_source_key(
            stored, self.renamings, self.converters, self.module.base_model_prefix, self.state
        )
        return renaming

    def place(self, pattern: str) -> int:
        """Where a rule lists that pattern: parts are laid on top of each other in this order."""
        rule = next(rule for rule in self.converters if pattern in rule.source_patterns)
        place: int = rule.source_patterns.index(pattern)
        return place


def _stacks(rule: Any) -> bool:
    """A rule that lays experts on top of each other, each maybe from several parts along ``out``."""
    steps = [(type(step).__name__, step.dim) for step in rule.operations if hasattr(step, "dim")]
    whole = len(steps) == len(rule.operations) and len(rule.target_patterns) == 1
    return whole and steps in ([("MergeModulelist", 0)], [("MergeModulelist", 0), ("Concatenate", 1)])
