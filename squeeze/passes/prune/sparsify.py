"""Unstructured and n:m sparsity: the plumbing; the papers are ``squeeze.algorithms.sparsegpt`` and ``wanda``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, cast

import torch
from annotated_types import Gt, Lt
from pydantic import model_validator
from torch import Tensor

from squeeze.algorithms.sparsegpt import sparsegpt
from squeeze.algorithms.sparsity import Sparsity, sparsity_fault
from squeeze.algorithms.wanda import magnitude, wanda
from squeeze.errors import DataError, ModelError, SqueezeError
from squeeze.formats.grid_kind import GridKind
from squeeze.models.base import Model
from squeeze.models.language.footprint import (
    FLOAT,
    PROCESS_BYTES,
    activation_bytes,
    forward_bytes,
    largest_block_bytes,
    shared_shapes,
)
from squeeze.models.language.language_model import in_shards
from squeeze.models.options import Patterns, Unused
from squeeze.models.torch_model import in_memory
from squeeze.models.torch_stage import TorchStage
from squeeze.passes.base import Context, Pass, Preview
from squeeze.passes.calibration import CHUNK_TOKENS
from squeeze.passes.prune.selection import Selection
from squeeze.passes.prune.sparse_walks import channels_last, sparse_blocks, sparse_layers

S = TypeVar("S", bound=TorchStage)  # one type per call: the kind of weights stays the same
COPIES = 3  # matrices of a Hessian's size: it, its factor, the factor's inverse
GAIN = "none on a CPU: files and times are the dense ones; 2:4 needs GPU kernels, for which no target here writes"


class Sparsify(Pass[TorchStage, TorchStage]):
    """Set single weights to zero: a share of them, or 2 of every 4 input channels; nothing gets smaller or faster here.

    SparseGPT (Frantar & Alistarh, 2023, https://arxiv.org/abs/2301.00774) or Wanda (Sun et al., 2023,
    https://arxiv.org/abs/2306.11695), on the outputs of the layers that are sparse already. Runtimes on a CPU multiply
    by zeros as by any number. A pass that trains after it, or gptq, would fill the zeros again.
    """

    name: ClassVar[str] = "sparsify"
    links_tables: ClassVar[bool] = True
    refuses: ClassVar[frozenset[str]] = frozenset({"quantized"})
    promises: ClassVar[frozenset[str]] = frozenset({"weights_changed"})

    ratio: Annotated[float, Gt(0), Lt(1)] | None = None
    """Share of each weight matrix that becomes zero; either this or pattern."""
    pattern: Literal["2:4", "4:8"] | None = None
    """Zeros in every group of adjacent input channels, as GPUs have units for (2:4); either this or ratio."""
    method: Literal["sparsegpt", "wanda", "magnitude"] = "sparsegpt"
    """sparsegpt: corrects the remaining weights; wanda: chooses by weight times input norm, corrects nothing;
    magnitude: chooses by weight, needs no data."""
    damping: Annotated[float, Gt(0)] = 0.01
    """Share of the mean diagonal added to sparsegpt's Hessian; raised automatically when it cannot be inverted."""
    include: Patterns = ("*",)
    """Weights to make sparse, by name; a language model's embedding and head always stay dense."""
    exclude: Patterns = ()
    """Weights that stay dense."""

    @model_validator(mode="after")
    def _one_goal(self) -> Self:
        if (self.ratio is None) == (self.pattern is None):
            raise ValueError('name one of ratio and pattern: ratio: 0.5, or pattern: "2:4"')
        return self

    @property
    def sparsity(self) -> Sparsity:
        if self.pattern is None:
            return Sparsity(self.ratio)
        zeros, size = map(int, self.pattern.split(":"))
        return Sparsity(pattern=(zeros, size))

    def needed(self) -> frozenset[str]:
        return frozenset() if self.method == "magnitude" else frozenset({"calibration"})

    def unused(self, model: Model, grid: Mapping[str, GridKind] | None) -> Iterator[Unused]:
        if self.method != "sparsegpt":
            yield Unused("damping", f"goes with method: sparsegpt; method is {self.method}")

    def faults(self, model: TorchStage) -> Iterator[str]:
        names = [_module_name(name) for name in model.matrices()]
        wrong = list(Selection(self.include, self.exclude).faults(names))
        yield from (f"{self.name}: {line}" for line in wrong)
        if not wrong and not self._chosen(model):
            yield f"{self.name}: include and exclude together leave no weight; a wider include would do"
        yield from self._pattern_faults(model)

    def _pattern_faults(self, model: TorchStage) -> Iterator[str]:
        size, shapes = (self.sparsity.pattern or (0, 1))[1], model.matrices()
        wrong = [name for name in self._chosen(model) if shapes[name].channels % size]
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            what = f"{shapes[wrong[0]].channels} input channels of {_module_name(wrong[0])}{more}"
            yield f"{self.name}: pattern {self.pattern} does not divide the {what}; exclude them, or ratio: 0.5"

    def preview(self, model: TorchStage, before: Preview) -> Preview:
        return replace(before, touched=tuple(self._chosen(model)))

    def memory_bytes(self, model: TorchStage, tokens: int, limit: int | None, nbytes: int | None = None) -> int | None:
        if not model.blocks:
            return None
        language = in_shards(model)
        block = PROCESS_BYTES + 2 * largest_block_bytes(language)
        if self.method == "magnitude":
            return block
        widths = [width for _, width in shared_shapes(language)]
        solving = FLOAT * (sum(width**2 for width in widths) + COPIES * max(widths) ** 2)
        chunk = forward_bytes(language, min(tokens, CHUNK_TOKENS))
        return block + activation_bytes(language, tokens, limit) + max(chunk, solving)

    def run(self, model: S, context: Context) -> S:
        """Walk a model that is read in blocks block by block, any other layer by layer."""
        if model.grid:
            raise ModelError(f"{self.name}: {len(model.grid)} weights are quantized already; sparsify before that")
        if faults := list(self.faults(model)):
            raise ModelError(faults[0])
        calibrated, names = self.method != "magnitude", self._chosen(model)
        if calibrated and not len(context.calibration):
            raise DataError(f"{self.name}: {context.calibration.name}: no calibration examples")
        sparse: TorchStage
        if model.blocks:
            sparse = sparse_blocks(in_shards(model), set(names), self._solved, context, self.name, calibrated)
        else:
            sparse = sparse_layers(in_memory(model), names, self._solved, context, self.name, calibrated)
        values = [sparse.value(name) for name in names]
        zeros, count = sum(int((value == 0).sum()) for value in values), sum(value.numel() for value in values)
        context.facts["sparsity"] = {"zeros": zeros, "of": count, "weights": len(names), "share": zeros / count}
        context.facts["gain_in_a_runtime"] = GAIN
        return cast(S, sparse)

    def check_effect(self, before: Model, after: Model, facts: dict[str, Any]) -> Sequence[str]:
        was, now = cast(TorchStage, before), cast(TorchStage, after)
        faults = ((n, sparsity_fault(_matrix(now, n), _matrix(was, n), self.sparsity)) for n in self._chosen(was))
        goal = f"pattern {self.pattern}" if self.pattern else f"ratio {self.ratio}"
        return [f"left {name} with {fault}; the goal is {goal}" for name, fault in faults if fault][:3]

    def _solved(self, name: str, W: Tensor, H: Tensor | None) -> Tensor:
        if not bool(torch.isfinite(W).all()):
            raise ModelError(f"{name} holds values that are not finite; weights cannot be ranked by them")
        if H is None:
            return magnitude(W, self.sparsity)
        try:
            solved = sparsegpt(W, H, self.sparsity, self.damping) if self.method == "sparsegpt" else None
        except SqueezeError as error:
            raise type(error)(f"{name}: {error}") from None
        return wanda(W, H, self.sparsity) if solved is None else solved

    def _chosen(self, model: TorchStage) -> list[str]:
        """Full parameter names, in execution order."""
        selection = Selection(self.include, self.exclude)
        return [name for name in model.matrices() if selection.refusal([_module_name(name)]) is None]


def _module_name(name: str) -> str:
    return name.removesuffix(".weight")


def _matrix(model: TorchStage, name: str) -> Tensor:
    """``[out, in]``; experts one under the other, the channels of one kernel place adjacent."""
    value = model.value(name)
    return value.flatten(0, 1) if model.matrices()[name].experts else channels_last(value)
