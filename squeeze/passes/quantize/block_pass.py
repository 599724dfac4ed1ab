"""What weight quantizers share: which weights they take, what they need, and the two walks that lead to them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar, Generic, Self, TypeVar, cast

from pydantic import PositiveInt

from squeeze.blocks.hessians import Inputs
from squeeze.blocks.watch import Weight
from squeeze.formats.grid_kind import GridKind
from squeeze.models.base import Model
from squeeze.models.language.footprint import (
    FLOAT,
    PROCESS_BYTES,
    activation_bytes,
    block_matrices,
    forward_bytes,
    largest_block_bytes,
    largest_end_bytes,
)
from squeeze.models.language.language_model import LanguageModel, in_shards
from squeeze.models.options import Unused
from squeeze.models.torch_model import in_memory
from squeeze.models.torch_stage import TorchStage
from squeeze.passes.base import Context, Holds, Pass, Preview
from squeeze.passes.calibration import CHUNK_TOKENS
from squeeze.passes.quantize.blocks import quantize_blocks
from squeeze.passes.quantize.layers.quantize import quantize_layers
from squeeze.passes.quantize.scheme import Scheme, WeightOptions, kind_of
from squeeze.passes.quantize.weighting import TokenWeights
from squeeze.passes.quantize.work import BlockWork, Grids

M = TypeVar("M", bound=TorchStage)
S = TypeVar("S", bound=TorchStage)  # one type per call: the kind of weights stays the same


class BlockPass(WeightOptions, Pass[M, M], Generic[M]):
    """A quantizer of weights: of a language model one decoder block at a time, else one layer at a time.

    ``BlockPass[LanguageModel]`` takes language models alone, ``BlockPass[TorchStage]`` any torch model.
    """

    links_tables: ClassVar[bool] = True
    leaves: ClassVar[frozenset[str]] = frozenset({"quantized"})
    refuses: ClassVar[frozenset[str]] = frozenset({"quantized"})
    promises: ClassVar[frozenset[str]] = frozenset({"fewer_bytes", "weights_changed"})
    looks_at_data: ClassVar[bool] = False

    def follows_original(self) -> bool:
        """Whether the original model's activations are to be walked along."""
        return False

    def advances(self) -> bool:
        """Whether a layer's inputs are those that the quantized layers before it give."""
        return self.looks_at_data

    def token_weights(self, model: LanguageModel, context: Context) -> TokenWeights | None:
        """What an error in each token's output costs, by block; None: all tokens the same."""
        return None

    @abstractmethod
    def quantize(self, work: BlockWork, context: Context) -> Grids:
        """The grids of all weights in ``work.schemes``."""

    def quantize_layer(self, work: BlockWork, inputs: Mapping[Weight, Inputs], context: Context) -> Grids:
        """The same for a layer that is in memory alone, one matrix per group of its channels.

        Args:
            inputs: What goes into each, where the pass looks at data.
        """
        return self.quantize(work, context)

    def faults(self, model: M) -> Iterator[str]:
        return self.faults_before(model, lambda _: None)

    def faults_before(self, model: M, holds: Holds) -> Iterator[str]:
        yield from self.option_faults(model, self.name, holds)

    def unused(self, model: Model, grid: Mapping[str, GridKind] | None) -> Iterator[Unused]:
        if not model.blocks:
            yield Unused("embeddings", "is of language models, which this is not: leave it out")

    def preview(self, model: M, before: Preview) -> Preview:
        after = self.forecast(model, before)
        if self.embeddings is None:
            return after
        ends = Scheme(self.embeddings, self.group_size, self.symmetric, self.scale_type())
        tables = {name: model.module.get_parameter(name) for name in model.ends}
        kinds = {name: kind_of(tuple(table.shape), ends) for name, table in tables.items()}
        saved = sum(table.nbytes - kinds[name].nbytes for name, table in tables.items())
        return replace(after, nbytes=after.nbytes - saved, grid={**after.grid, **kinds})

    def memory_bytes(self, model: M, tokens: int, limit: int | None, nbytes: int | None = None) -> int | None:
        if not model.blocks:
            return None
        shards, walks, chunk = in_shards(model), 0, 0
        if self.looks_at_data:
            walks = (1 + self.follows_original()) * activation_bytes(shards, tokens, limit)
            chunk = forward_bytes(shards, min(tokens, CHUNK_TOKENS))
        walks += self.kept_bytes(shards, tokens, limit)
        block = largest_block_bytes(shards)
        busy = max(2 * block + chunk, block * 3 // 2 + self.work_bytes(shards, limit))  # old and new; new and integers
        ends = 0 if self.embeddings is None else largest_end_bytes(shards) * 3 // 2
        return PROCESS_BYTES + max(ends, walks + busy)

    def kept_bytes(self, model: LanguageModel, tokens: int, limit: int | None) -> int:
        """What is kept of the activations inside a block."""
        return 0

    def work_bytes(self, model: LanguageModel, limit: int | None) -> int:
        """What quantizing the largest weights of a block takes beside them."""
        largest = max(value[0].numel() if value.dim() > 2 else value.numel() for _, value in block_matrices(model))
        return FLOAT * largest

    def run(self, model: S, context: Context) -> S:
        """Walk a model that is read in blocks block by block, any other layer by layer."""
        if model.blocks:
            return cast(S, quantize_blocks(self, in_shards(model), context))
        return cast(S, quantize_layers(self, in_memory(model), context))


class CalibratedPass(BlockPass[M], Generic[M]):
    """A quantizer that looks at calibration data."""

    needs: ClassVar[frozenset[str]] = frozenset({"calibration"})
    looks_at_data: ClassVar[bool] = True

    calibration_seeds: PositiveInt = 1
    """3: the pass is repeated with three choices of calibration samples; the row shows how far its scores spread."""

    def repetitions(self) -> int:
        return self.calibration_seeds

    def once(self) -> Self:
        return self.model_copy(update={"calibration_seeds": 1})
