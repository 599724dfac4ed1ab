"""Which weights of a model are quantized, and how: the options that all weight quantizers share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from squeeze.errors import did_you_mean
from squeeze.formats.grid_kind import GridKind, ScaleType
from squeeze.models.options import Patterns, matches
from squeeze.models.torch_stage import TorchStage, WeightShape
from squeeze.passes.base import Holds, Preview

Bits = Literal[2, 3, 4, 8]
LARGEST_OFFERED = 256  # largest group size suggested by an error message


class Override(BaseModel):
    """Other options for the weights that a pattern matches; what is left out stays."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    bits: Bits | None = None
    group_size: PositiveInt | None = Field(default=0, validate_default=False)  # 0: as the pass has it
    symmetric: bool | None = None


@dataclass(frozen=True)
class Scheme:
    """How one weight is stored."""

    bits: int
    group_size: int | None
    symmetric: bool
    scales: ScaleType = "float16"

    @property
    def scale_dtype(self) -> torch.dtype:
        """What its scales are rounded to."""
        return torch.bfloat16 if self.scales == "bfloat16" else torch.float16


class WeightChoice(BaseModel):
    """Mixed into passes: which weights of the blocks, how wide, in which groups."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    bits: Bits = 4
    """Width of the integers."""
    group_size: PositiveInt | None = 128
    """Input channels that share a scale, a convolution's with all places of its kernel; null: one scale per output
    channel, all that a depthwise convolution can have."""
    symmetric: bool = True
    """false: a zero point per group, for weights that are not centred on zero."""
    include: Patterns = ("*",)
    """Weights to quantize, by name; a language model's embedding and head have an option of their own."""
    exclude: Patterns = ()
    """Weights that stay as they are."""
    overrides: dict[str, Override] = Field(default_factory=dict)
    """Other options for some weights, by name: {"*.down_proj": {bits: 8}}."""

    def scheme(self, name: str) -> Scheme | None:
        """How the weight of that module name is stored; None where it is left as it is."""
        if not matches(name, self.include) or matches(name, self.exclude):
            return None
        scheme = Scheme(self.bits, self.group_size, self.symmetric, self.scale_type())
        for pattern, override in self.overrides.items():
            if fnmatchcase(name, pattern):
                scheme = _overridden(scheme, override)
        return scheme

    def scale_type(self) -> ScaleType:
        """The float type that scales are rounded to."""
        return "float16"

    def schemes(self, model: TorchStage) -> dict[str, Scheme]:
        """By full parameter name, for every weight that is quantized."""
        schemes = {name: self.scheme(_module_name(name)) for name in model.matrices()}
        return {name: scheme for name, scheme in schemes.items() if scheme is not None}

    def option_faults(self, model: TorchStage, what: str, holds: Holds = lambda _: None) -> Iterator[str]:
        """Patterns that match nothing, or what has no grid; groups that do not divide.

        Args:
            holds: Of what comes behind: no group size is offered that it refuses.
        """
        names = [_module_name(name) for name in model.matrices()]
        gridless = model.gridless()
        patterns = (*self.include, *self.exclude, *self.overrides)
        idle = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]
        for pattern in idle:
            near = did_you_mean(pattern, {_pattern_of(name, pattern.count(".")) for name in names})
            reason = next((f"{name}: {gridless[name]}" for name in gridless if fnmatchcase(name, pattern)), None)
            others = f"; {', '.join(names[:3])} would do" if names else ""
            yield f"{what}: {reason}{others}" if reason else f'{what}: "{pattern}" matches no weight{near}'
        if not idle and not self.schemes(model) and not self.takes_ends():
            yield f"{what}: include and exclude leave no weight to quantize"
        yield from self._group_faults(model, what, holds)

    def takes_ends(self) -> bool:
        """Whether the embedding and the head are quantized too."""
        return False

    def forecast(self, model: TorchStage, before: Preview) -> Preview:
        """The model after the pass, as far as shapes decide it."""
        values, shapes = dict(model.module.named_parameters()), model.matrices()
        grid = {name: self.kind(shapes[name], scheme) for name, scheme in self.flat_schemes(model).items()}
        saved = sum(values[name].nbytes - kind.nbytes for name, kind in grid.items())
        return Preview(tuple(grid), before.parameters, before.nbytes - saved, before.macs, exact=False, grid=grid)

    def flat_schemes(self, model: TorchStage) -> dict[str, Scheme]:
        """As :meth:`schemes`, with groups counted in columns of a weight's matrix."""
        shapes = model.matrices()
        return {name: flat(scheme, shapes[name]) for name, scheme in self.schemes(model).items()}

    def kind(self, shape: WeightShape, scheme: Scheme) -> GridKind:
        return kind_of(shape.matrix, scheme)

    def _group_faults(self, model: TorchStage, what: str, holds: Holds) -> Iterator[str]:
        shapes, schemes = model.matrices(), self.schemes(model)
        wrong: dict[tuple[int, int], list[str]] = {}
        for name, scheme in schemes.items():
            columns = shapes[name].channels
            if scheme.group_size is not None and columns % scheme.group_size:
                wrong.setdefault((scheme.group_size, columns), []).append(name)
        for (size, columns), names in wrong.items():
            where = ", ".join(sorted({_pattern_of(_module_name(name)) for name in names}))
            cure = _cure(shapes[names[0]], schemes[names[0]], holds)
            yield f"{what}: group_size {size} does not divide the {columns} inputs of {where}; {cure}"


class WeightOptions(WeightChoice):
    """Mixed into passes that can also take the embedding and the head."""

    embeddings: Bits | None = None
    """Bits of the embedding and, where it is not tied, the head; null: they stay as they are."""

    def takes_ends(self) -> bool:
        return self.embeddings is not None


def _cure(shape: WeightShape, scheme: Scheme, holds: Holds) -> str:
    """Which group sizes would do, for the weight and for what comes behind; and why others that divide would not."""
    sizes = [n for n in range(2, min(shape.channels, LARGEST_OFFERED + 1)) if shape.channels % n == 0]
    grouped = {n: flat(replace(scheme, group_size=n), shape) for n in (*sizes, None)}
    reasons = {n: holds(kind_of(shape.matrix, one)) for n, one in grouped.items()}
    fit = ["null" if n is None else str(n) for n, reason in reasons.items() if reason is None]
    would = f"{' or '.join(filter(None, (', '.join(fit[:-1]), fit[-1])))} would" if fit else "no other would"
    refused = [str(n) for n in sizes if reasons[n] is not None]
    if not refused:
        return would
    return f"{would} ({', '.join(refused)} divide{'s' * (len(refused) == 1)} them, but {reasons[int(refused[-1])]})"


def flat(scheme: Scheme, shape: WeightShape) -> Scheme:
    """The same scheme with its groups counted in columns of the matrix."""
    size = scheme.group_size
    return replace(scheme, group_size=None if size is None else size * shape.kernel)


def kind_of(shape: tuple[int, ...], scheme: Scheme, ordered: bool = False) -> GridKind:
    """The kind of grid that a weight ``[..., in]`` lies on by a scheme; experts one under the other."""
    rows = math.prod(shape[:-1])
    return GridKind(rows, shape[-1], scheme.bits, scheme.group_size, scheme.symmetric, ordered, scheme.scales)


def _overridden(scheme: Scheme, override: Override) -> Scheme:
    size = scheme.group_size if override.group_size == 0 else override.group_size
    symmetric = scheme.symmetric if override.symmetric is None else override.symmetric
    return replace(scheme, bits=override.bits or scheme.bits, group_size=size, symmetric=symmetric)


def _module_name(name: str) -> str:
    """``model.layers.0.mlp.down_proj`` for ``model.layers.0.mlp.down_proj.weight``."""
    return name.removesuffix(".weight")


def _pattern_of(name: str, most: int = 9) -> str:
    """``*.mlp.down_proj`` for ``model.layers.0.mlp.down_proj``: the same weight in every block, its last parts."""
    parts = name.split(".")
    last = max((place for place, part in enumerate(parts) if part.isdigit()), default=-1)
    return ".".join(["*", *parts[last + 1 :][-max(most, 1) :]])
