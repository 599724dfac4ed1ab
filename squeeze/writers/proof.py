"""Whether a file's own ecosystem reads from it the very weights of the grid: each weight, bit for bit.

The other side is never our reader: gptqmodel's packed linear, compressed-tensors' decompressor, the gguf package's
``dequantize``. Our side is never what the writer moved: a weight is dequantized as the model has it, and the real
numbers are put in the file's order. Equal means equal in the float type that the format computes in, which is float16
for packed checkpoints (their scales are float16) and float32 for GGUF.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from squeeze.errors import EffectError, ModelError
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.names import as_stored
from squeeze.models.language.skeleton import Skeleton
from squeeze.models.shards import Shards
from squeeze.writers.packed_folder import WEIGHT, packed_names

Read = Callable[[str, Mapping[str, Tensor]], Tensor]  # a module's name and its stored tensors -> [out, in]


@dataclass(frozen=True)
class Equality:
    """One weight of a file, beside the grid that it was made from.

    Args:
        name: Of the weight, as the file has it.
        form: The file's format.
        reader: Whose code read it.
        dtype: In which float type the two were compared.
        differing: Of ``weights`` numbers, how many are not the same bits.
    """

    name: str
    form: str
    reader: str
    dtype: str
    weights: int
    differing: int

    @property
    def equal(self) -> bool:
        return self.differing == 0


def proven(equalities: Iterable[Equality]) -> list[dict[str, Any]]:
    """One line per format, reader and float type, for the ledger: tensors and weights compared, all of them equal.

    Raises:
        EffectError: a reader sees other weights.
    """
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    for equality in equalities:
        if not equality.equal:
            count = f"{equality.differing} of {equality.weights} weights"
            where = f"{equality.form}: {equality.name}: {equality.reader} reads {count}"
            raise EffectError(f"{where} otherwise than they were written, in {equality.dtype}; none would be right")
        key = (equality.form, equality.reader, equality.dtype)
        facts = {"format": equality.form, "reader": equality.reader, "dtype": equality.dtype}
        line = lines.setdefault(key, facts | {"tensors": 0, "weights": 0, "differing": 0})
        line["tensors"] += 1
        line["weights"] += equality.weights
    return list(lines.values())


def packed_linears(
    model: LanguageModel, folder: Path, form: str, reader: str, parts: tuple[str, ...], read: Read
) -> Iterator[Equality]:
    """Each packed linear of a folder as ``reader`` sees it.

    Args:
        parts: The tensors that lie beside a linear's name.
    """
    shards = Shards(folder)
    for module, own in _weights(model):
        stored = {part: shards.read(f"{module}.{part}") for part in parts if f"{module}.{part}" in shards}
        yield compared(module, form, reader, own, read(module, stored))


def _weights(model: LanguageModel) -> Iterator[tuple[str, Tensor]]:
    """Every packed linear ``[out, in]`` in float16 by its name in a checkpoint, one block in memory at a time."""
    skeleton: Skeleton = model.skeleton
    for index in range(model.blocks):
        names = packed_names(model, [skeleton.prefix(index) + name for name in skeleton.block_names(index)])
        real = {name: model.quantized(name).dequantize().half().reshape(model.grid[name].shape) for name in names}
        stored = as_stored(skeleton.module, real) if real else {}
        yield from ((name.removesuffix(WEIGHT), value) for name, value in stored.items())


def compared(name: str, form: str, reader: str, own: Tensor, as_read: Tensor) -> Equality:
    """One weight as it is and as it was read, bit for bit; raises ``ModelError`` where shapes or float types differ."""
    if own.shape != as_read.shape or own.dtype != as_read.dtype:
        what = f"{list(as_read.shape)} {as_read.dtype}, and {list(own.shape)} {own.dtype} was written"
        raise ModelError(f"{name}: {reader} reads {what}")
    bits, zero = torch.int16 if own.dtype == torch.float16 else torch.int32, torch.zeros((), dtype=own.dtype)
    same = torch.eq((own + zero).contiguous().view(bits), (as_read + zero).contiguous().view(bits))  # -0.0 is 0.0
    return Equality(name, form, reader, str(own.dtype).removeprefix("torch."), own.numel(), int((~same).sum()))


def joined(parts: Sequence[Equality]) -> Equality:
    """Parts of one weight as one."""
    return replace(parts[0], weights=sum(p.weights for p in parts), differing=sum(p.differing for p in parts))
