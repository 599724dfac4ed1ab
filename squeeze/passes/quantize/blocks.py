"""The walk of weight quantizers through a model in shards: block by block, each on disk before the next one begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.algorithms.rtn import require_finite, round_to_nearest
from squeeze.blocks.visit import ReadWeights, visit_blocks
from squeeze.blocks.walk import Walk
from squeeze.errors import ModelError, SqueezeError
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.matrices import block_weights, matrices
from squeeze.models.language.memory import small_heap, trim_heap
from squeeze.models.language.rewriter import Rewriter
from squeeze.passes.base import Context
from squeeze.passes.calibration import calibration_walk
from squeeze.passes.quantize.scheme import Scheme
from squeeze.passes.quantize.work import BlockWork

if TYPE_CHECKING:
    from squeeze.passes.quantize.block_pass import BlockPass


MAPPED_BYTES = 128 << 20  # of a block's weights as they were, mapped for as long as it is worked on


def quantize_blocks(pass_: BlockPass[Any], model: LanguageModel, context: Context) -> LanguageModel:
    """Quantize the weights that a pass chooses; blocks that an earlier try finished are taken from disk.

    Raises:
        ModelError: weights are quantized already, or are not finite.
    """
    if model.grid:
        raise ModelError(f"{model.folder}: {len(model.grid)} weights are quantized already")
    with small_heap():
        for name in model.skeleton.read_outside:
            for part in model.parts(name):
                require_finite(part, name)
        return _Blocks(pass_, model, context).walk_through()


class _Blocks:
    """The state of quantizing a model in shards."""

    def __init__(self, pass_: BlockPass[Any], model: LanguageModel, context: Context) -> None:
        self.pass_, self.model, self.context = pass_, model, context
        self.rewriter = Rewriter(model, context.model_folder())
        self.token_weights = pass_.token_weights(model, context)  # done before any other activations are in memory
        self.walk: Walk | None = calibration_walk(model, context) if pass_.looks_at_data else None
        self.original = self.walk.twin() if self.walk is not None and pass_.follows_original() else None
        self.schemes: dict[str, Scheme] = pass_.schemes(model)

    def walk_through(self) -> LanguageModel:
        """All blocks in turn, then the embedding and the head."""
        sources = (self.walk, self.rewriter), (self.original, self.model)
        advance = [(walk, weights) for walk, weights in sources if walk is not None]
        progress, name = self.context.progress, self.pass_.name
        layers = visit_blocks(self.model.blocks, self.rewriter, self._quantize, advance, progress, name)
        self._quantize_ends()
        self.context.facts["layers"] = layers
        self.context.facts["quantized"] = {f"int{self.pass_.bits}": [len(self.schemes), len(self.schemes)]}
        return self.rewriter.finish()

    def _quantize(self, index: int) -> None:
        """One block, on disk when this returns."""
        model, prefix = self.model, self.model.skeleton.prefix(index)
        names = [name for name in block_weights(model.skeleton, index) if prefix + name in self.schemes]
        parts = {name: matrices(model.skeleton, index, name) for name in names}
        with model.block_to_change(index, names) as (block, was):
            for name, value in block.named_parameters():
                require_finite(value.data, prefix + name)
            originals: Mapping[str, Tensor] = dict(was)
            if self.original is None or sum(value.nbytes for value in was.values()) > MAPPED_BYTES:
                originals = ReadWeights(names, lambda name: model.tensor(prefix + name))
            was.clear()  # mapped pages count as memory
            schemes = {weight: self.schemes[prefix + name] for name in names for weight in parts[name]}
            work = BlockWork(index, block, self.walk, original=self.original, was=originals, schemes=schemes)
            work.token_weights = self.token_weights.of(index) if self.token_weights else None
            try:
                grids = self.pass_.quantize(work, self.context)
            except SqueezeError as error:
                raise type(error)(f"{prefix.removesuffix('.')}: {error}") from None
            new: dict[str, Tensor | QuantizedTensor] = {name: block.get_parameter(name).data for name in work.changed}
        new |= {name: QuantizedTensor.stack([grids[weight] for weight in parts[name]]) for name in names}
        self.rewriter.put_block(index, new, {prefix + name: facts for name, facts in work.facts.items()})
        del new, grids, work
        trim_heap()

    def _quantize_ends(self) -> None:
        if (bits := self.pass_.embeddings) is None:
            return
        ends = Scheme(bits, self.pass_.group_size, self.pass_.symmetric, self.pass_.scale_type())
        new: dict[str, Tensor | QuantizedTensor] = {}
        for name in self.model.skeleton.ends:
            new[name] = round_to_nearest(
                self.model.tensor(name), bits, ends.group_size, ends.symmetric, "mse", ends.scale_dtype
            )
        self.rewriter.put_outside(new, {})
