"""A language model in memory, to be trained: float32 weights, next-token predictions."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.models.base import Batch
from squeeze.models.language.adapter import write_adapter
from squeeze.models.resident import NOTHING, Beside, Resident

if TYPE_CHECKING:
    from squeeze.models.language.language_model import LanguageModel

LOGITS_VALUES = 1 << 25  # logits of one micro-batch: 128 MB of float32, several times that with gradients


class ResidentLanguageModel(Resident):
    """The module of a :class:`LanguageModel`, all weights in float32.

    Memory: 4 bytes a weight; a training adds the gradients and the optimizer's state, 12 bytes a weight with AdamW.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model, self.task = model, model.task
        self.module = model.whole().float().requires_grad_(True)

    def output(self, batch: Batch) -> Tensor:
        logits: Tensor = self.module(input_ids=batch.inputs["input_ids"], use_cache=False).logits
        return logits

    def golden(self) -> Batch:
        return self.task.golden(self.model)

    def micro_batch(self, batch: Batch) -> int:
        length = batch.inputs["input_ids"].shape[1]
        return max(1, LOGITS_VALUES // (length * self.model.vocabulary))

    @property
    def vocabulary(self) -> int:
        return self.model.vocabulary

    def blocks(self) -> list[nn.Module]:
        skeleton = self.model.skeleton
        return [self.module.get_submodule(skeleton.prefix(i).removesuffix(".")) for i in range(self.model.blocks)]

    def pieces(self) -> list[nn.Module]:
        ends = self.model.skeleton.ends
        apart = ends if len(ends) > 1 else []  # a tied table is called twice
        return [*self.blocks(), *(self.module.get_submodule(name.rpartition(".")[0]) for name in apart)]

    def grids(self) -> dict[str, QuantizedTensor]:
        return {name: self.model.quantized(name) for name in self.model.grid if name not in self.fixed()}

    def fixed(self) -> list[str]:
        return [name for name in self.model.grid if name in self.model.skeleton.ends]

    def recompute(self) -> bool:
        for block in self.blocks():
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        return True

    def commit(self, folder: Path, beside: Beside = NOTHING) -> LanguageModel:
        """Written block by block in the dtypes of the model that was read; a MiniCPM becomes the Llama it computes."""
        from squeeze.models.language.rewriter import Rewriter

        parameters = {name: value.detach() for name, value in self.module.named_parameters()}
        stored = dict(self.model.skeleton.module.named_parameters())
        new: dict[str, Tensor | QuantizedTensor] = {
            name: beside.grids[name] if name in beside.grids else value.to(stored[name].dtype)
            for name, value in parameters.items()
            if name in beside.grids or name not in self.model.grid
        }
        rewriter = Rewriter(self.model, folder)
        for index in range(self.model.blocks):
            prefix = self.model.skeleton.prefix(index)
            names = self.model.skeleton.block_names(index)
            rewriter.put_block(index, {name: new[prefix + name] for name in names if prefix + name in new}, {})
        outside = [name for name in self.model.skeleton.outside if name in new]
        rewriter.put_outside({name: new[name] for name in outside}, {})
        if beside.updates:
            write_adapter(folder, beside.updates)
        return rewriter.finish()
