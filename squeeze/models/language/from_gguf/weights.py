"""A file's tensors as a model's weights: rows put back in order, dequantized a few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from squeeze.errors import ModelError, first_line
from squeeze.formats.gguf_file import gguf
from squeeze.formats.gguf_header import TensorInfo
from squeeze.formats.streamed_safetensors import Slot
from squeeze.models.language.from_gguf.config import Family, head_size
from squeeze.models.language.from_gguf.metadata import Metadata
from squeeze.models.language.from_gguf.rope import LLAMA3, LONG, SHORT
from squeeze.models.language.gguf_names import Source, row_order, sources
from squeeze.models.language.skeleton import Skeleton

PIECE_BYTES = 16 * 2**20  # float32 bytes converted at a time
ELSEWHERE = (LLAMA3, LONG, SHORT)  # rotary factors, which the config says


@dataclass(frozen=True)
class Weight:
    """A weight of the model, and the tensors of the file that hold it, in the order of ``part``."""

    slot: Slot
    sources: tuple[Source, ...]


def weights(metadata: Metadata, skeleton: Skeleton, dtype: torch.dtype) -> list[list[Weight]]:
    """Every weight, shard by shard: what is outside the blocks, then each block.

    Raises:
        ModelError: a tensor is missing, of another shape than the config says, of a type without a dequantizer, or has
            no place in the model.
    """
    state = skeleton.module.state_dict()
    by_origin: dict[str, list[Source]] = {}
    for source in sources(skeleton, metadata.architecture):
        by_origin.setdefault(source.origin, []).append(source)
        _require(metadata, source, tuple(state[source.origin].shape))
    _require_no_other(metadata, {source.name for parts in by_origin.values() for source in parts})
    shards: dict[str, list[Weight]] = {}
    for origin, parts in by_origin.items():
        inside, _, _ = origin.removeprefix(f"{skeleton.layers_name}.").partition(".")
        slot = Slot(origin, tuple(state[origin].shape), dtype)
        shards.setdefault(inside if inside.isdigit() else "", []).append(Weight(slot, tuple(parts)))
    return list(shards.values())


def pieces(metadata: Metadata, weight: Weight, family: Family) -> Iterator[Tensor]:
    """The values of a weight in order, about :data:`PIECE_BYTES` of float32 at a time."""
    slot = weight.slot
    head_dim = head_size(metadata) if family.interleaved else None
    offset = family.added_to_norms if slot.name.endswith("norm.weight") else 0.0
    for info, rows in _runs(metadata, weight, head_dim):
        value = _dequantized(metadata, info, rows)
        if len(slot.shape) == 1 and (order := row_order(weight.sources[0], slot.shape, head_dim)) is not None:
            value = value.reshape(-1)[order.argsort()]
        stored = (value - offset if offset else value).to(slot.dtype)
        if not bool(torch.isfinite(stored).all()):
            raise ModelError(f"{metadata.path}: '{info.name}' holds numbers that are not finite as {slot.dtype}")
        yield stored


def _runs(metadata: Metadata, weight: Weight, head_dim: int | None) -> Iterator[tuple[TensorInfo, Any]]:
    """Which rows of which tensor come next."""
    infos, shape = [metadata.header.tensors[source.name] for source in weight.sources], weight.slot.shape
    if len(infos) > 1:  # stacked experts: of each in turn, its share from every tensor
        for expert in range(shape[0]):
            for info in infos:
                each = info.rows // shape[0]
                yield from ((info, rows) for rows in _split(shape[-1], np.arange(expert * each, (expert + 1) * each)))
        return
    order = row_order(weight.sources[0], shape, head_dim) if len(shape) > 1 else None
    every = np.arange(infos[0].rows) if order is None else order.argsort().numpy()
    yield from ((infos[0], rows) for rows in _split(shape[-1], every))


def _split(columns: int, rows: Any) -> Iterator[Any]:
    step = max(1, PIECE_BYTES // (4 * columns))
    yield from (rows[start : start + step] for start in range(0, len(rows), step))


def _dequantized(metadata: Metadata, info: TensorInfo, rows: Any) -> Tensor:
    """float32 ``[rows, columns]``, by the gguf package's own rule of the type."""
    package = gguf()
    raw = info.raw(metadata.path)[rows]
    values = package.quants.dequantize(raw, package.GGMLQuantizationType[info.kind])
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _require(metadata: Metadata, source: Source, shape: tuple[int, ...]) -> None:
    info = metadata.header.tensors.get(source.name)
    if info is None:
        raise ModelError(f"{metadata.path}: holds no tensor '{source.name}', which a {metadata.architecture} needs")
    if source.parts > 1:
        shape = (*shape[:-2], shape[-2] // source.parts, shape[-1])
    if info.shape != shape:
        what = f"has the shape {list(info.shape)}, {list(shape)} by the metadata"
        raise ModelError(f"{metadata.path}: tensor '{source.name}' {what}")
    package = gguf()
    kind = package.GGMLQuantizationType[info.kind]
    _, size = package.GGML_QUANT_SIZES[kind]
    try:
        package.quants.dequantize(np.zeros((1, size), np.uint8), kind)
    except NotImplementedError as error:
        raise ModelError(f"{metadata.path}: tensor '{source.name}': {first_line(error)}") from None


def _require_no_other(metadata: Metadata, used: set[str]) -> None:
    others = sorted(set(metadata.header.tensors) - used - set(ELSEWHERE))
    if others:
        what = f"'{others[0][:80]}'" + (f" and {len(others) - 1} others have" if len(others) > 1 else " has")
        raise ModelError(f"{metadata.path}: {what} no place in a {metadata.architecture} that transformers runs")
