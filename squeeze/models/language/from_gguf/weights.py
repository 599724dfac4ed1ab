"""Which tensors of a file are which weights of a model, and how their rows lie."""

from __future__ import annotations

import numpy as np

from squeeze.errors import ModelError, first_line
from squeeze.formats.gguf_types import dequantize, type_named
from squeeze.models.gguf_pieces import GgufPiece
from squeeze.models.language.from_gguf.config import family_of, head_size
from squeeze.models.language.from_gguf.metadata import Metadata
from squeeze.models.language.from_gguf.rope import LLAMA3, LONG, SHORT
from squeeze.models.language.gguf_names import Source, is_paired, sources
from squeeze.models.language.skeleton import Skeleton

ELSEWHERE = (LLAMA3, LONG, SHORT)  # rotary factors, which the config says


def weights(metadata: Metadata, skeleton: Skeleton, dtype: str) -> list[GgufPiece]:
    """Every weight: what is outside the blocks, then each block.

    Raises:
        ModelError: a tensor is missing, of another shape than the config says, of a type without a dequantizer, or has
            no place in the model.
    """
    state, family = skeleton.module.state_dict(), family_of(metadata)
    head_channels = head_size(metadata) if family.interleaved else None
    by_origin: dict[str, list[Source]] = {}
    for source in sources(skeleton, metadata.architecture):
        by_origin.setdefault(source.origin, []).append(source)
        _require(metadata, source, tuple(state[source.origin].shape))
    _require_no_other(metadata, {source.name for parts in by_origin.values() for source in parts})
    return [
        GgufPiece(
            metadata.path.resolve(),
            name,
            tuple(state[name].shape),
            dtype,
            tuple(metadata.header.tensors[part.name] for part in parts),
            head_channels if is_paired(name) else None,
            family.added_to_norms if name.endswith("norm.weight") else 0.0,
        )
        for name, parts in by_origin.items()
    ]


def _require(metadata: Metadata, source: Source, shape: tuple[int, ...]) -> None:
    info = metadata.header.tensors.get(source.name)
    if info is None:
        raise ModelError(f"{metadata.path}: holds no tensor '{source.name}', which a {metadata.architecture} needs")
    if source.parts > 1:
        shape = (*shape[:-2], shape[-2] // source.parts, shape[-1])
    if info.shape != shape:
        what = f"has the shape {list(info.shape)}, {list(shape)} by the metadata"
        raise ModelError(f"{metadata.path}: tensor '{source.name}' {what}")
    try:
        dequantize(np.zeros((1, type_named(info.kind).nbytes), np.uint8), info.kind)
    except NotImplementedError as error:
        raise ModelError(f"{metadata.path}: tensor '{source.name}': {first_line(error)}") from None


def _require_no_other(metadata: Metadata, used: set[str]) -> None:
    others = sorted(set(metadata.header.tensors) - used - set(ELSEWHERE))
    if others:
        what = f"'{others[0][:80]}'" + (f" and {len(others) - 1} others have" if len(others) > 1 else " has")
        raise ModelError(f"{metadata.path}: {what} no place in a {metadata.architecture} that transformers runs")
