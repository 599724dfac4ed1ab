"""A .gguf file as a folder that every pass reads: whole, or as an outline whose weights take no disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from squeeze.errors import ModelError
from squeeze.formats.gguf_header import read_header
from squeeze.formats.streamed_safetensors import write_outline, write_streamed
from squeeze.models.config_sizes import require_sizes
from squeeze.models.language.from_gguf.config import config_of, family_of
from squeeze.models.language.from_gguf.metadata import Metadata
from squeeze.models.language.from_gguf.tokenizer import tokenizer_files
from squeeze.models.language.from_gguf.weights import Weight, pieces, weights
from squeeze.models.language.skeleton import Skeleton
from squeeze.models.shards import INDEX

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
EXACT = {"F16": "float16", "BF16": "bfloat16"}  # types that torch stores unchanged; all others become float32
GENERATION = ("bos_token_id", "eos_token_id", "pad_token_id")


def convert(file: Path, folder: Path, dtype: str | None = None, outline: bool = False) -> None:
    """Write config, tokenizer and shards of a .gguf file; a few rows of one tensor are in memory at a time.

    Args:
        folder: Empty.
        dtype: What weights are stored in; None: the narrowest that holds them exactly.
        outline: Shards with shapes and no weights: for checks.

    Raises:
        ModelError: a file that is broken or says what cannot be read; nothing is written where the header tells.
        MissingExtra: the package gguf is not installed.
    """
    metadata = Metadata(file, read_header(file))
    if metadata.integer("split.count", 1) > 1:
        parts = f"is one of {metadata.integer('split.count')} parts"
        raise ModelError(f"{file}: {parts}; llama-gguf-split --merge makes one file of them")
    config = config_of(metadata)
    config["dtype"] = dtype or _exact(metadata)
    require_sizes(config, file, len(metadata.header.tensors))
    values = {"config.json": config, "generation_config.json": _generation(config)} | tokenizer_files(metadata)
    for name, value in values.items():
        (folder / name).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _write_shards(metadata, folder, weights(metadata, _skeleton(metadata, folder), DTYPES[config["dtype"]]), outline)


def _skeleton(metadata: Metadata, folder: Path) -> Skeleton:
    try:
        return Skeleton.read(folder)
    except ModelError as error:
        raise ModelError(str(error).replace(str(folder), str(metadata.path))) from None


def _exact(metadata: Metadata) -> str:
    kinds = {info.kind for info in metadata.header.tensors.values() if len(info.shape) > 1}
    return EXACT.get(kinds.pop(), "float32") if len(kinds) == 1 else "float32"


def _generation(config: dict[str, Any]) -> dict[str, Any]:
    return {name: config[name] for name in GENERATION if config.get(name) is not None}


def _write_shards(metadata: Metadata, folder: Path, shards: Sequence[Sequence[Weight]], outline: bool) -> None:
    family, placed = family_of(metadata), dict[str, str]()
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        slots = [weight.slot for weight in shard]
        if outline:
            write_outline(folder / name, slots)
        else:
            write_streamed(folder / name, slots, (pieces(metadata, weight, family) for weight in shard))
        placed |= {slot.name: name for slot in slots}
    size = sum(weight.slot.nbytes for shard in shards for weight in shard)
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(placed.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=1))
