"""Which weights of a model are quantized, and how: the options that all weight quantizers share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator
from torch import nn

from squeeze.blocks.watch import Weight
from squeeze.errors import did_you_mean
from squeeze.formats.grid_kind import GridKind
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.torch_model import TorchModel
from squeeze.passes.quantize.layers.choice import layer_names, without_grid

Bits = Literal[2, 3, 4, 8]


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
    include: tuple[str, ...] = ("*",)
    """Weights to quantize, by name; a language model's embedding and head have an option of their own."""
    exclude: tuple[str, ...] = ()
    """Weights that stay as they are."""
    overrides: dict[str, Override] = Field(default_factory=dict)
    """Other options for some weights, by name: {"*.down_proj": {bits: 8}}."""

    @field_validator("include", "exclude", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    def scheme(self, name: str) -> Scheme | None:
        """How the weight of that module name is stored; None where it is left as it is."""
        if not _matches(name, self.include) or _matches(name, self.exclude):
            return None
        scheme = Scheme(self.bits, self.group_size, self.symmetric)
        for pattern, override in self.overrides.items():
            if _matches(name, (pattern,)):
                scheme = _overridden(scheme, override)
        return scheme

    def schemes(self, model: LanguageModel | TorchModel) -> dict[str, Scheme]:
        """By full parameter name, for every weight that is quantized."""
        found = {name: self.scheme(_module_name(name)) for name in quantizable(model)}
        return {name: scheme for name, scheme in found.items() if scheme is not None}

    def option_faults(self, model: LanguageModel | TorchModel, what: str) -> Iterator[str]:
        """Patterns that match nothing, or what has no grid; groups that do not divide."""
        names = [_module_name(name) for name in quantizable(model)]
        gridless = without_grid(model) if isinstance(model, TorchModel) else {}
        patterns = (*self.include, *self.exclude, *self.overrides)
        idle = [pattern for pattern in patterns if not any(_matches(name, (pattern,)) for name in names)]
        for pattern in idle:
            near = did_you_mean(pattern, {_pattern_of(name, pattern.count(".")) for name in names})
            reason = next((f"{name}: {gridless[name]}" for name in gridless if _matches(name, (pattern,))), None)
            others = f"; {', '.join(names[:3])} would do" if names else ""
            yield f"{what}: {reason}{others}" if reason else f'{what}: "{pattern}" matches no weight{near}'
        if not idle and not self.schemes(model) and not self.takes_ends():
            yield f"{what}: include and exclude leave no weight to quantize"
        yield from self._group_faults(model, what)

    def takes_ends(self) -> bool:
        """Whether the embedding and the head are quantized too."""
        return False

    def _group_faults(self, model: LanguageModel | TorchModel, what: str) -> Iterator[str]:
        shapes = weight_shapes(model)
        wrong: dict[tuple[int, int], list[str]] = {}
        for name, scheme in self.schemes(model).items():
            columns = shapes[name].channels
            if scheme.group_size is not None and columns % scheme.group_size:
                wrong.setdefault((scheme.group_size, columns), []).append(_pattern_of(_module_name(name)))
        for (size, columns), names in wrong.items():
            fit = [str(n) for n in range(2, columns) if columns % n == 0 and n <= 256]
            where = ", ".join(sorted(set(names)))
            cure = f"{', '.join(fit)} or null would" if fit else "null would"
            yield f"{what}: group_size {size} does not divide the {columns} inputs of {where}; {cure}"


class WeightOptions(WeightChoice):
    """Mixed into passes that can also take the embedding and the head."""

    embeddings: Bits | None = None
    """Bits of the embedding and, where it is not tied, the head; null: they stay as they are."""

    def takes_ends(self) -> bool:
        return self.embeddings is not None


@dataclass(frozen=True)
class WeightShape:
    """A weight as the matrix ``[rows, channels x kernel]``: experts one under the other, kernels flattened."""

    rows: int
    channels: int
    kernel: int = 1

    @property
    def matrix(self) -> tuple[int, int]:
        """``(rows, columns)``."""
        return self.rows, self.channels * self.kernel

    def flat(self, scheme: Scheme) -> Scheme:
        """The same scheme with its groups counted in columns of the matrix."""
        size = scheme.group_size
        return Scheme(scheme.bits, None if size is None else size * self.kernel, scheme.symmetric)


def weight_shapes(model: LanguageModel | TorchModel) -> dict[str, WeightShape]:
    """By full parameter name, of every weight that a quantizer may take."""
    if isinstance(model, LanguageModel):
        shapes = dict(model.skeleton.module.named_parameters())
        return {n: WeightShape(math.prod(shapes[n].shape[:-1]), shapes[n].shape[-1]) for n in quantizable(model)}
    found = {name: model.module.get_parameter(name).shape for name in quantizable(model)}
    return {name: WeightShape(shape[0], shape[1], math.prod(shape[2:])) for name, shape in found.items()}


def quantizable(model: LanguageModel | TorchModel) -> list[str]:
    """Full parameter names of the weights that a quantizer may take.

    In the blocks of a language model: linears, and experts in one 3-D tensor. Routers stay as they are: a few rows that
    decide where every token goes. Of any other torch model: linears and convolutions.
    """
    if isinstance(model, TorchModel):
        return [f"{name}.weight" for name in layer_names(model)]
    return [model.skeleton.prefix(i) + name for i in range(model.blocks) for name in block_weights(model, i)]


def block_weights(model: LanguageModel, index: int) -> list[str]:
    """The same, of one block, named inside it."""
    block = model.skeleton.layers[index]
    linears = {f"{name}.weight" for name, child in block.named_modules() if isinstance(child, nn.Linear)}
    experts = _experts(model)
    return [
        name
        for name, value in block.named_parameters()
        if (name in linears and not _routes(block, name, experts)) or (value.dim() == 3 and len(value) == experts)
    ]


def _routes(block: nn.Module, name: str, experts: int | None) -> bool:
    """A linear with a row per expert, beside the experts; or with a single row, which weighs a shared one."""
    rows = len(block.get_parameter(name))
    beside = block.get_submodule(name.removesuffix(".weight").rpartition(".")[0])
    return rows == 1 or (rows == experts and _holds_experts(beside, experts))


def _holds_experts(module: nn.Module, experts: int) -> bool:
    lists = any(isinstance(child, nn.ModuleList) and len(child) == experts for child in module.children())
    return lists or any(value.dim() == 3 and len(value) == experts for value in module.parameters())


def matrices(model: LanguageModel, index: int, name: str) -> list[Weight]:
    """The matrices of one parameter: itself, or one per expert."""
    value = model.skeleton.layers[index].get_parameter(name)
    return [Weight(name)] if value.dim() == 2 else [Weight(name, expert) for expert in range(len(value))]


def stored_bytes(shape: tuple[int, ...], scheme: Scheme) -> int:
    """What a weight of that shape takes on disk."""
    columns = shape[-1]
    rows = 1
    for size in shape[:-1]:
        rows *= size
    groups = columns // (scheme.group_size or columns)
    return rows * (-(-columns // 8) * scheme.bits + groups * (2 if scheme.symmetric else 3))


def _experts(model: LanguageModel) -> int | None:
    config = model.skeleton.config.get_text_config()
    return next(
        (n for key in ("num_local_experts", "num_experts", "n_routed_experts") if (n := getattr(config, key, None))),
        None,
    )


def kind_of(shape: tuple[int, ...], scheme: Scheme, ordered: bool = False) -> GridKind:
    """The kind of grid that a weight ``[..., in]`` lies on by a scheme; experts one under the other."""
    rows = math.prod(shape[:-1])
    return GridKind(rows, shape[-1], scheme.bits, scheme.group_size, scheme.symmetric, ordered)


def _overridden(scheme: Scheme, override: Override) -> Scheme:
    size = scheme.group_size if override.group_size == 0 else override.group_size
    symmetric = scheme.symmetric if override.symmetric is None else override.symmetric
    return Scheme(override.bits or scheme.bits, size, symmetric)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _module_name(name: str) -> str:
    """``model.layers.0.mlp.down_proj`` for ``model.layers.0.mlp.down_proj.weight``."""
    return name.removesuffix(".weight")


def _pattern_of(name: str, most: int = 9) -> str:
    """``*.mlp.down_proj`` for ``model.layers.0.mlp.down_proj``: the same weight in every block, its last parts."""
    parts = name.split(".")
    last = max((place for place, part in enumerate(parts) if part.isdigit()), default=-1)
    return ".".join(["*", *parts[last + 1 :][-max(most, 1) :]])
