"""The language-model form: a Hugging Face folder whose weights stay on disk, read one block at a time.

A quantized weight is stored as integers and scales (``grid_file``); reading it gives what it stands for. Weights are
never all in memory unless :meth:`LanguageModel.whole` is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from squeeze.blocks.mapped import MappedTensor
from squeeze.blocks.walk import Walk
from squeeze.errors import ModelError
from squeeze.formats.operation import Operation
from squeeze.models.base import ADAPTER, Batch, Layer, Model
from squeeze.models.language.decoder import Decoder, ScoredTokens
from squeeze.models.language.dense import SIDE_FILES, write_dense
from squeeze.models.language.folder_weights import FolderWeights
from squeeze.models.language.matrices import block_weights
from squeeze.models.language.memory import REUSED_BYTES, trim_heap
from squeeze.models.language.operations import operations
from squeeze.models.language.resident import ResidentLanguageModel
from squeeze.models.language.skeleton import Skeleton, fill, filled
from squeeze.models.links import link_or_copy
from squeeze.models.torch_stage import TorchStage, WeightShape
from squeeze.progress import SILENT, Progress


class LanguageModel(FolderWeights, Decoder, TorchStage):
    """A causal language model in a folder: config.json, safetensors shards, tokenizer.

    Raises:
        ModelError: no such model, a shard missing or cut short, a tensor missing or of the wrong shape.
    """

    form: ClassVar[str] = "language"
    reused_bytes = REUSED_BYTES  # blocks of one size follow each other

    def __init__(self, folder: Path) -> None:
        self.restructure(Skeleton.read(folder))
        self.open_folder(folder)

    def restructure(self, skeleton: Skeleton) -> None:
        """Take the structure that a pass will make, so that later steps can be checked."""
        self.skeleton, self.module = skeleton, skeleton.module
        self.__dict__.pop("_macs", None)

    def copied(self) -> Self:
        """The same weights; a structure that may be exchanged."""
        return copy(self)

    def outline(self) -> Self:
        return self.copied()

    @property
    def vocabulary(self) -> int:
        return int(self.skeleton.module.get_output_embeddings().weight.shape[0])  # type: ignore[operator]

    def cache_values(self) -> int:
        config: Any = self.skeleton.module.config
        heads = int(config.num_attention_heads)
        channels = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        cached_heads = int(getattr(config, "num_key_value_heads", None) or heads)
        return 2 * int(config.num_hidden_layers) * cached_heads * channels

    def operations(self, cached: int = 0) -> list[Operation] | None:
        return operations(self.skeleton, cached)

    @property
    def context(self) -> int | None:
        return self.skeleton.context

    @property
    def tokens_known(self) -> int:
        return int(self.skeleton.module.get_input_embeddings().weight.shape[0])  # type: ignore[operator]

    @property
    def blocks(self) -> int:
        return len(self.skeleton.layers)

    @contextmanager
    def block(self, index: int, wide: bool = False) -> Iterator[nn.Module]:
        """One decoder block with its weights, for as long as the ``with`` lasts; ``wide``: to compute in float32."""
        module, prefix = self.skeleton.layers[index], self.skeleton.prefix(index)
        with filled(module, self.skeleton.block_names(index), lambda name: self._filled(prefix + name, wide)):
            yield module

    @contextmanager
    def block_to_change(self, index: int, names: list[str]) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
        """One block, some of whose parameters may be written to; and what those are in the file."""
        with self.block(index) as block:
            was = {name: block.get_parameter(name).data for name in names}
            for name, mapped in was.items():
                block.get_parameter(name).data = mapped.clone()  # never written to where the file is
            yield block, was

    @contextmanager
    def outside(self, wide: bool = False) -> Iterator[nn.Module]:
        """The model with the weights before and behind its blocks, for as long as the ``with`` lasts."""
        module = self.skeleton.module
        try:
            with filled(module, self.skeleton.read_outside, lambda name: self._filled(name, wide)):
                module.tie_weights()  # type: ignore[operator]
                yield module
        finally:
            module.tie_weights()  # type: ignore[operator]

    def _filled(self, name: str, wide: bool) -> Tensor:
        """A weight as the module computes with it; matrices stay narrow, ``wide_products`` widens their parts."""
        value = self.tensor(name, wide)
        return value.float() if wide and value.dim() < 2 and value.is_floating_point() else value

    def walk(self, tokens: Tensor, chunk: int = 8, spill: Path | None = None, wide: bool = False) -> Walk:
        """Embedded tokens ``[sequences, length]``, ready to go through the blocks.

        Args:
            wide: Activations in float32, as runtimes on a CPU have them, whatever the weights are stored in.
        """
        self.require_known(tokens)
        walk = Walk(self.skeleton, tokens, chunk, spill, wide)
        with self.outside(wide):
            walk.start()
        return walk

    def logits(self, tokens: Tensor, chunk: int = 8, spill: Path | None = None) -> Iterator[tuple[slice, Tensor]]:
        """Logits ``[n, length, vocabulary]`` of chunks of sequences, with one block in memory at a time.

        All arithmetic is float32: logits of a bf16 forward are off by more than int8 weights are. What comes out of
        the last block lies in ``spill`` afterwards, float32 ``[sequences, length, hidden]``.
        """
        walk = self.walk(tokens, chunk, spill, wide=True)
        for index in range(self.blocks):
            with self.block(index, wide=True):
                walk.through(index)
        with self.outside(wide=True):
            yield from walk.finish()

    def logits_at(
        self,
        texts: Sequence[ScoredTokens],
        most: int,
        chunk: int,
        spill: Path | None = None,
        progress: Progress = SILENT,
    ) -> Iterator[tuple[int, slice, Tensor]]:
        """All texts go through a block before the next is read; norm and head see the scored tokens alone."""
        walks = [self.walk(one.tokens, max(1, chunk // one.tokens.shape[1]), spill, wide=True) for one in texts]
        for index in progress.track(range(self.blocks), "blocks"):
            with self.block(index, wide=True):
                for walk in walks:
                    walk.through(index)
            trim_heap(cycles=False)
        with self.outside(wide=True):
            for number, (walk, one) in enumerate(zip(walks, texts, strict=True)):
                for places, logits in walk.finish_at(one.is_scored, most):
                    yield number, places, logits
                    del logits  # freed before the next chunk's

    def hidden_bytes(self, tokens: int) -> int:
        return torch.float32.itemsize * int(self.skeleton.hidden_size) * tokens

    @contextmanager
    def logits_behind(self, hidden: Path, texts: ScoredTokens) -> Iterator[Callable[[slice], Tensor]]:
        """Logits of some of the scored tokens again, from what came out of the last block: norm and head only."""
        walk, places = Walk(self.skeleton, texts.tokens, 1, wide=True), texts.is_scored.nonzero()
        shape = (*texts.tokens.shape, self.skeleton.hidden_size)
        walk.mapped = MappedTensor.open(hidden, shape, torch.float32)
        walk.hidden = walk.mapped.tensor
        with self.outside(wide=True):
            yield lambda part: walk.logits_at(places[part])

    def whole(self, blocks: bool = True) -> nn.Module:
        """A stock transformers model with all weights in memory, quantized ones as what they stand for.

        Args:
            blocks: Off: those of the blocks stay where they are.
        """
        module = Skeleton.read(self.folder).module
        for name in self.skeleton.names() if blocks else self.skeleton.outside:
            fill(module, name, self.tensor(name).clone())
        module.tie_weights()  # type: ignore[operator]
        return module.eval()

    def arithmetic(self) -> str:
        narrow = str(self.skeleton.dtype).removeprefix("torch.")
        return "torch: float32 activations, head and logits" + ("" if narrow == "float32" else f", {narrow} weights")

    def resident(self, on_disk: bool = False) -> ResidentLanguageModel:
        return ResidentLanguageModel(self, on_disk)

    def layers(self) -> list[Layer]:
        return [self._layer(name, value) for name, value in self.skeleton.module.named_parameters()]

    def nbytes(self) -> int:
        """Bytes of all shards on disk, and of an adapter beside them."""
        return self.shards.nbytes() + (self.adapter.nbytes() if self.adapter else 0)

    def parameters(self) -> int:
        return super().parameters() + (self.adapter.parameters() if self.adapter else 0)

    def marks(self) -> frozenset[str]:
        return super().marks() | ({ADAPTER} if self.adapter else set())

    def matrices(self) -> dict[str, WeightShape]:
        """Linears and experts of the blocks; no routers."""
        prefixes = [self.skeleton.prefix(index) for index in range(self.blocks)]
        names = [prefix + name for i, prefix in enumerate(prefixes) for name in block_weights(self.skeleton, i)]
        parameters = dict(self.module.named_parameters())
        return {name: WeightShape.of_linear(parameters[name].shape) for name in names}

    def value(self, name: str) -> Tensor:
        return self.tensor(name)

    @property
    def ends(self) -> list[str]:
        return self.skeleton.ends

    def macs(self) -> int | None:
        """Of one token; each value of an adapter is multiplied once."""
        macs: int | None = self._macs
        return macs + self.adapter.parameters() if macs is not None and self.adapter else macs

    @cached_property
    def _macs(self) -> int | None:
        """Of the structure alone, which no pass changes in place."""
        return self.skeleton.macs()

    def save(self, folder: Path) -> None:
        """Config, tokenizer and shards; linked where the file system can, copied where it cannot."""
        side = {file for pattern in SIDE_FILES for file in self.folder.glob(pattern)}
        for file in sorted(side | set(self.adapter.files if self.adapter else ())):
            link_or_copy(file, folder / file.relative_to(self.folder))
        self.shards.save(folder)

    def save_dense(self, folder: Path) -> None:
        """A plain Hugging Face folder of what the model stands for, which stock transformers loads."""
        write_dense(self.skeleton, self.tensor, self.folder, folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls(folder)

    def runner(self, batch: Batch, threads: int) -> Callable[[], object]:
        raise ModelError("a language model is timed as the artifact that it becomes; leave latency out of the metrics")

    def _layer(self, name: str, value: Tensor) -> Layer:
        multiplied = value.dim() == 2 and name not in self.skeleton.tables
        macs = None if value.dim() > 2 else value.numel() if multiplied else 0
        kind = f"int{self.grid[name].bits}" if name in self.grid else "dense"
        return Layer(name, kind, value.numel(), self.stored_bytes(name, value), macs, tuple(value.shape))


def in_shards(model: Model) -> LanguageModel:
    """An original whose task is to generate, as what it is: a folder of shards."""
    assert isinstance(model, LanguageModel), "an original that generates is read from a folder"
    return model
