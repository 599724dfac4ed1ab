"""A .gguf file as a folder that every pass reads: config and tokenizer from its metadata; blocks stay in the file.

Tables, which are looked up by rows all the time, are written out once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from squeeze.errors import ModelError
from squeeze.formats.gguf_header import read_header
from squeeze.formats.streamed_safetensors import Slot, write_streamed
from squeeze.models.config_sizes import require_sizes
from squeeze.models.gguf_pieces import write_index
from squeeze.models.language.from_gguf.config import config_of
from squeeze.models.language.from_gguf.metadata import Metadata
from squeeze.models.language.from_gguf.tokenizer import tokenizer_files
from squeeze.models.language.from_gguf.weights import weights
from squeeze.models.language.skeleton import Skeleton

EXACT = {"F16": "float16", "BF16": "bfloat16"}  # types that torch stores unchanged; all others become float32
TABLES = "outside.safetensors"
GENERATION = ("bos_token_id", "eos_token_id", "pad_token_id")


def convert(file: Path, folder: Path, dtype: str | None = None, outline: bool = False) -> None:
    """Write config, tokenizer, an index of the blocks' weights, and what lies outside the blocks.

    Args:
        folder: Empty.
        dtype: What weights are read as; None: the narrowest that holds them exactly.
        outline: What lies outside stays in the file, too: for checks.

    Raises:
        ModelError: a file that is broken or says what cannot be read; no index is written.
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
    skeleton = _skeleton(metadata, folder)
    pieces = weights(metadata, skeleton, config["dtype"])
    apart = [] if outline else [piece for piece in pieces if piece.name in skeleton.outside]
    if apart:
        slots = [Slot(piece.name, piece.shape, piece.value_dtype) for piece in apart]
        write_streamed(folder / TABLES, slots, (piece.parts() for piece in apart))
    write_index(folder, file.resolve(), [piece for piece in pieces if piece not in apart])


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
