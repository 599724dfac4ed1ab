"""Hidden features of a student and its teacher, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from squeeze.algorithms.distillation import energy, total_feature_loss
from squeeze.blocks.hooks import watched_modules
from squeeze.errors import SqueezeError, did_you_mean
from squeeze.models.options import matches
from squeeze.training.projection import Projection, differing_axis, rows

if TYPE_CHECKING:
    from squeeze.models.base import Batch
    from squeeze.models.resident import Resident
    from squeeze.training.peers import Peers

Features = Sequence[str] | Mapping[str, str]  # patterns of layers of both, or by the student's layer the teacher's
BUFFER = "feature_projection_{}_{}"  # of the student's module while it learns: a layer's number, which sum
SUMS = ("gram", "cross")


def feature_faults(names: Sequence[str], features: Features) -> Iterator[str]:
    """One line per pattern, or name of a mapping, that matches none of a model's modules."""
    for pattern in features:
        if pattern not in names if isinstance(features, Mapping) else not any(fnmatchcase(n, pattern) for n in names):
            yield f'features "{pattern}" matches no layer{did_you_mean(pattern, names)}'


class FeaturePairs:
    """While open, what the matching layers of both models gave last.

    A layer that is narrower than the teacher's has a :class:`Projection`, whose sums are buffers of the student's
    module as long as this is open: checkpoints keep them.
    """

    def __init__(self, student: Resident, teacher: Resident, features: Features) -> None:
        self.models = student, teacher
        self.names = _paired(student.module, features)
        known = {name for name, _ in teacher.module.named_modules()}
        for name in self.names.values():
            if name not in known:
                what = f"distill: the teacher has no layer '{name}' for features to compare with"
                raise SqueezeError(f"{what}{did_you_mean(name, known)}")
        self.outputs: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        self.hooks = ExitStack()
        self.axes: dict[str, int] = {}  # of layers whose width is not the teacher's
        self.projections: dict[str, Projection] = {}

    def __enter__(self) -> Self:
        for model, outputs, names in zip(self.models, self.outputs, (self.names, self.names.values()), strict=True):
            modules = [(name, model.module.get_submodule(name)) for name in dict.fromkeys(names)]
            self.hooks.enter_context(watched_modules(modules, partial(_note, outputs)))
        self._project()
        return self

    def __exit__(self, *_: object) -> None:
        self.hooks.close()
        for name in self._buffers():
            delattr(self.models[0].module, name)

    def widths(self) -> dict[str, list[int]]:
        """By layer whose width is not the teacher's: its own and the teacher's."""
        return {name: list(projection.cross.shape) for name, projection in self.projections.items()}

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """``(student, teacher)`` outputs of the last batch, one pair per layer, as they come."""
        return [(self.outputs[0][name], self.outputs[1][other]) for name, other in self.names.items()]

    def loss(self, peers: Peers | None) -> Tensor:
        """Sum over the layers of the last batch, by the teacher's energy in the rows of all processes."""
        pairs = []
        for name, (student, teacher) in zip(self.names, self.pairs(), strict=True):
            if name in self.projections:
                student, teacher = (rows(value, self.axes[name]) for value in (student, teacher))
                if self.models[0].module.training:
                    self.projections[name].add(student.detach(), teacher, peers)
                student = self.projections[name].of(student)
            pairs.append((student, teacher))
        if peers is None:
            return total_feature_loss(pairs)
        return total_feature_loss(pairs, peers.means(torch.stack([energy(teacher) for _, teacher in pairs])))

    def _project(self) -> None:
        """Give each layer of another width its map; widths are those of an example of ours."""
        student = self.models[0]
        example = student.golden()
        for whose, model, outputs in zip(("student", "teacher"), self.models, self.outputs, strict=True):
            _forward(model, example)
            for name in self.names if whose == "student" else self.names.values():
                if not isinstance(outputs.get(name), Tensor):
                    raise SqueezeError(
                        f"distill: features '{name}' gives no tensor in the {whose}; a layer that does would do"
                    )
        for name, (own, other) in zip(self.names, self.pairs(), strict=True):
            try:
                axis = differing_axis(own.shape, other.shape)
            except ValueError:
                what = f"features '{name}' has shape {list(own.shape)}, the teacher's {list(other.shape)}"
                raise SqueezeError(f"distill: {what}; layers that differ in width alone would do") from None
            if axis is not None:
                self.axes[name] = axis
                self.projections[name] = Projection(own.shape[axis], other.shape[axis])
        for name, value in self._buffers().items():
            student.module.register_buffer(name, value)

    def _buffers(self) -> dict[str, Tensor]:
        every = enumerate(self.projections.values())
        return {BUFFER.format(number, part): getattr(own, part) for number, own in every for part in SUMS}


@torch.no_grad()
def _forward(model: Resident, batch: Batch) -> None:
    """One pass that leaves no trace in a module's statistics."""
    was = model.module.training
    model.module.eval()
    model.output(batch)
    model.module.train(was)


def _paired(student: nn.Module, features: Features) -> dict[str, str]:
    """By each layer of the student that is meant, the teacher's."""
    if isinstance(features, Mapping):
        return dict(features)
    return {name: name for name, _ in student.named_modules() if matches(name, features)}


def _note(outputs: dict[str, Tensor], name: str, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
    outputs[name] = output if isinstance(output, Tensor) else output[0]  # transformer blocks may give a tuple
