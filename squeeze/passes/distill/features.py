"""Hidden features of a student and its teacher, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, Self

from torch import Tensor, nn

from squeeze.errors import SqueezeError, did_you_mean
from squeeze.models.torch_model import TorchModel


def feature_faults(model: TorchModel, patterns: Sequence[str]) -> Iterator[str]:
    """One line per pattern that matches no module."""
    names = [name for name, _ in model.module.named_modules() if name]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            yield f'features "{pattern}" matches no layer{did_you_mean(pattern, names)}'


class FeaturePairs:
    """While open, what the matching layers of both models gave last."""

    def __init__(self, student: TorchModel, teacher: TorchModel, patterns: Sequence[str]) -> None:
        self.models = student.module, teacher.module
        self.names = [name for name, _ in student.module.named_modules() if _matches(name, patterns)]
        missing = set(self.names) - {name for name, _ in teacher.module.named_modules()}
        if missing:
            raise SqueezeError(f"distill: the teacher has no layer '{min(missing)}' for features to compare with")
        self.seen: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        self.handles: list[Any] = []

    def __enter__(self) -> Self:
        for module, seen in zip(self.models, self.seen, strict=True):
            for name in self.names:
                self.handles.append(module.get_submodule(name).register_forward_hook(_note(name, seen)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """``(student, teacher)`` outputs of the last batch, one pair per layer."""
        return [self._pair(name) for name in self.names]

    def _pair(self, name: str) -> tuple[Tensor, Tensor]:
        student, teacher = (seen[name] for seen in self.seen)
        if student.shape != teacher.shape:
            raise SqueezeError(
                f"distill: features '{name}' has {student.shape[1]} channels, the teacher's has {teacher.shape[1]}; "
                "layers whose width was not cut would do"
            )
        return student, teacher


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _note(name: str, seen: dict[str, Tensor]) -> Any:
    def hook(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
        seen[name] = output

    return hook
