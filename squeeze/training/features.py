"""Hidden features of a student and its teacher, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from squeeze.algorithms.distillation import energy, total_feature_loss
from squeeze.errors import SqueezeError, did_you_mean

if TYPE_CHECKING:
    from squeeze.training.peers import Peers


def feature_faults(names: Sequence[str], patterns: Sequence[str]) -> Iterator[str]:
    """One line per pattern that matches none of a model's modules."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            yield f'features "{pattern}" matches no layer{did_you_mean(pattern, names)}'


class FeaturePairs:
    """While open, what the matching layers of both models gave last."""

    def __init__(self, student: nn.Module, teacher: nn.Module, patterns: Sequence[str]) -> None:
        self.modules = student, teacher
        self.names = [name for name, _ in student.named_modules() if _matches(name, patterns)]
        missing = set(self.names) - {name for name, _ in teacher.named_modules()}
        if missing:
            raise SqueezeError(f"distill: the teacher has no layer '{min(missing)}' for features to compare with")
        self.outputs: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        self.handles: list[Any] = []

    def __enter__(self) -> Self:
        for module, outputs in zip(self.modules, self.outputs, strict=True):
            for name in self.names:
                self.handles.append(module.get_submodule(name).register_forward_hook(_note(name, outputs)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """``(student, teacher)`` outputs of the last batch, one pair per layer."""
        return [self._pair(name) for name in self.names]

    def loss(self, peers: Peers | None) -> Tensor:
        """Sum over the layers of the last batch, by the teacher's energy in the rows of all processes."""
        pairs = self.pairs()
        if peers is None:
            return total_feature_loss(pairs)
        return total_feature_loss(pairs, peers.means(torch.stack([energy(teacher) for _, teacher in pairs])))

    def _pair(self, name: str) -> tuple[Tensor, Tensor]:
        student, teacher = (outputs[name] for outputs in self.outputs)
        if student.shape != teacher.shape:
            raise SqueezeError(
                f"distill: features '{name}' has {student.shape[1]} channels, the teacher's has {teacher.shape[1]}; "
                "layers whose width was not cut would do"
            )
        return student, teacher


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _note(name: str, outputs: dict[str, Tensor]) -> Any:
    def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        outputs[name] = output if isinstance(output, Tensor) else output[0]  # transformer blocks may give a tuple

    return hook
