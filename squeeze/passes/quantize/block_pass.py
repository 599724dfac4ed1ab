"""The walk that weight quantizers share: block by block, each on disk before the next one begins."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import PositiveInt

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
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.options import Unused
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context, Pass, Preview
from squeeze.passes.calibration import CHUNK_TOKENS
from squeeze.passes.quantize.language.quantize import quantize_blocks
from squeeze.passes.quantize.layers.quantize import quantize_layers
from squeeze.passes.quantize.scheme import (
    Scheme,
    WeightOptions,
    kind_of,
    stored_bytes,
    weight_shapes,
)
from squeeze.passes.quantize.work import BlockWork, Found, Inputs

M = TypeVar("M", bound=Model)


class BlockPass(WeightOptions, Pass[M, M], Generic[M]):
    """A quantizer of weights: of a language model one decoder block at a time, else one layer at a time.

    ``BlockPass[LanguageModel]`` takes language models alone, ``BlockPass[TorchModel | LanguageModel]`` any torch model.
    """

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

    @abstractmethod
    def quantize(self, work: BlockWork, context: Context) -> Found:
        """The grids of all weights in ``work.schemes``."""

    def quantize_layer(self, work: BlockWork, inputs: Mapping[Weight, Inputs], context: Context) -> Found:
        """The same for a layer that is in memory alone, one matrix per group of its channels.

        Args:
            inputs: What goes into each, where the pass looks at data.
        """
        return self.quantize(work, context)

    def faults(self, model: Model) -> Iterator[str]:
        if isinstance(model, LanguageModel | TorchModel):
            yield from self.option_faults(model, self.name)

    def unused(self, model: Model, grid: Mapping[str, GridKind] | None) -> Iterator[Unused]:
        if isinstance(model, TorchModel):
            yield Unused("embeddings", "is of language models, which this is not: leave it out")

    def preview(self, model: Model, before: Preview) -> Preview:
        assert isinstance(model, LanguageModel | TorchModel)
        module = model.skeleton.module if isinstance(model, LanguageModel) else model.module
        values, shapes = dict(module.named_parameters()), weight_shapes(model)
        schemes = {name: shapes[name].flat(scheme) for name, scheme in self.schemes(model).items()}
        saved = sum(values[name].nbytes - stored_bytes(shapes[name].matrix, s) for name, s in schemes.items())
        grid = {name: self._kind(shapes[name].matrix, scheme) for name, scheme in schemes.items()}
        if self.embeddings is not None and isinstance(model, LanguageModel):
            ends = Scheme(self.embeddings, self.group_size, self.symmetric)
            grid |= {name: kind_of(tuple(values[name].shape), ends) for name in model.skeleton.ends}
        return Preview(tuple(schemes), before.parameters, before.nbytes - saved, before.macs, exact=False, grid=grid)

    def memory_bytes(self, model: Model, tokens: int, limit: int | None) -> int | None:
        assert isinstance(model, LanguageModel)
        walks = (1 + self.follows_original()) * activation_bytes(model, tokens, limit) if self.looks_at_data else 0
        block = largest_block_bytes(model)
        chunk = forward_bytes(model, min(tokens, CHUNK_TOKENS)) if self.looks_at_data else 0
        busy = max(2 * block + chunk, block * 3 // 2 + self.work_bytes(model))  # as it was and is; is and its integers
        ends = largest_end_bytes(model) * 3 // 2  # looked through for what is not finite
        return PROCESS_BYTES + max(ends, walks + busy)

    def work_bytes(self, model: LanguageModel) -> int:
        """What quantizing the largest weights of a block takes beside them."""
        largest = max(value[0].numel() if value.dim() > 2 else value.numel() for _, value in block_matrices(model))
        return FLOAT * largest

    def _kind(self, shape: tuple[int, ...], scheme: Scheme) -> GridKind:
        """What a weight will lie on."""
        return kind_of(shape, scheme)

    def run(self, model: M, context: Context) -> M:
        made: Any = (
            quantize_layers(self, model, context)
            if isinstance(model, TorchModel)
            else quantize_blocks(self, model, context)  # type: ignore[arg-type]
        )
        result: M = made
        return result


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
