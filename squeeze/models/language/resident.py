"""A language model in memory, to be trained: float32 weights, next-token predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.models.base import Batch
from squeeze.models.language.adapter import write_adapter
from squeeze.models.language.frozen import absent, read_as_it_computes
from squeeze.models.language.skeleton import fill
from squeeze.models.resident import NOTHING, Beside, Resident

if TYPE_CHECKING:
    from squeeze.models.language.language_model import LanguageModel

LOGITS_VALUES = 1 << 25  # logits of one micro-batch: 128 MB of float32, several times that with gradients


class ResidentLanguageModel(Resident):
    """The module of a :class:`LanguageModel`, all weights in float32.

    Memory: 4 bytes a weight; a training adds the gradients and the optimizer's state, 12 bytes a weight with AdamW.

    Args:
        on_disk: Weights of blocks that are not trained are read each time that their block computes.
    """

    def __init__(self, model: LanguageModel, on_disk: bool = False) -> None:
        self.model, self.task = model, model.task
        self.module = model.whole(blocks=not on_disk).float().requires_grad_(True)
        for index, block in enumerate(self.blocks() if on_disk else []):
            prefix = model.skeleton.prefix(index)
            for name, value in [*block.named_buffers()]:
                if value.is_meta:
                    fill(block, name, self._read(name, prefix))
            read_as_it_computes(block, partial(self._read, prefix=prefix))

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

    def grids(self) -> Mapping[str, QuantizedTensor]:
        return Grids(self.model, [name for name in self.model.grid if name not in self.fixed()])

    def value(self, name: str) -> Tensor:
        value = self.module.get_parameter(name)
        return self._read(name) if value.is_meta else value.detach()

    def read_trained(self) -> None:
        parameters = dict(self.module.named_parameters())
        for name in absent(self.module):
            if parameters[name].requires_grad:
                fill(self.module, name, self._read(name).clone())
                self.module.get_parameter(name).requires_grad_(True)

    def _read(self, name: str, prefix: str = "") -> Tensor:
        return self.model.tensor(prefix + name, wide=True).float()

    def fixed(self) -> list[str]:
        return [name for name in self.model.grid if name in self.model.skeleton.ends]

    def recompute(self) -> bool:
        for block in self.blocks():
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        return True

    def commit(self, folder: Path, beside: Beside = NOTHING) -> LanguageModel:
        """Written block by block in the dtypes of the model that was read; a MiniCPM becomes the Llama it computes."""
        from squeeze.models.language.rewriter import Rewriter

        stored = dict(self.model.skeleton.module.named_parameters())
        own = {
            name for name, _ in self.module.named_parameters() if name in beside.grids or name not in self.model.grid
        }

        def new(name: str) -> Tensor | QuantizedTensor:
            if name in beside.grids:
                return beside.grids[name]
            value = self.value(name)
            update = beside.merged.get(name)
            return (value if update is None else value + update.weight()).to(stored[name].dtype)

        rewriter = Rewriter(self.model, folder)
        for index in range(self.model.blocks):
            prefix = self.model.skeleton.prefix(index)
            names = [name for name in self.model.skeleton.block_names(index) if prefix + name in own]
            rewriter.put_block(index, {name: new(prefix + name) for name in names}, {})
        rewriter.put_outside({name: new(name) for name in self.model.skeleton.outside if name in own}, {})
        if beside.updates:
            write_adapter(folder, beside.updates)
        return rewriter.finish()


class Grids(Mapping[str, QuantizedTensor]):
    """Grids of some weights of a model, each read from its folder when it is asked for."""

    def __init__(self, model: LanguageModel, names: list[str]) -> None:
        self.model, self.names = model, dict.fromkeys(names)

    def __getitem__(self, name: str) -> QuantizedTensor:
        if name not in self.names:
            raise KeyError(name)
        return self.model.quantized(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)
