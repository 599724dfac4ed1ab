"""A model written as a plain Hugging Face folder: dense weights, shard by shard, under stock names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from squeeze.formats import gptq_config
from squeeze.models.language.minicpm import as_llama
from squeeze.models.language.names import as_stored
from squeeze.models.language.skeleton import Skeleton
from squeeze.models.shards import INDEX, INDEX_ENDING

SIDE_FILES = ("*.json", "*.txt", "*.model", "*.jinja")


def write_dense(skeleton: Skeleton, tensor: Callable[[str], Tensor], source: Path, folder: Path) -> None:
    """Write every tensor, with one block in memory at a time; tied ones once.

    Args:
        tensor: Gives a weight by its name in the module.
        source: The folder that config and tokenizer are taken from.
    """
    copy_side_files(source, folder)
    write_shards(skeleton, folder, lambda names: as_stored(skeleton.module, {name: tensor(name) for name in names}))


def write_shards(skeleton: Skeleton, folder: Path, stored: Callable[[list[str]], dict[str, Tensor]]) -> None:
    """Write a shard of what is outside the blocks, one for each block, one each for embedding and head; their index.

    Args:
        stored: Gives what is stored for some tensors of the module, under the names of the checkpoint.
    """
    ends = skeleton.ends
    small = [name for name in skeleton.outside if name not in ends]
    indices = range(len(skeleton.layers))
    blocks = [[skeleton.prefix(index) + name for name in skeleton.block_names(index)] for index in indices]
    shards = [small, *blocks, *([name] for name in ends)]
    placed: dict[str, str] = {}
    size = 0
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = stored(names)
        save_file({name: _whole(value) for name, value in tensors.items()}, folder / file, {"format": "pt"})
        placed |= dict.fromkeys(tensors, file)
        size += sum(value.nbytes for value in tensors.values())
        del tensors  # freed before the next ones are read
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(placed.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2))


def copy_side_files(source: Path, folder: Path) -> None:
    """Config and tokenizer, less what was said of weights that others packed; no index, since the shards are others."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted({file for pattern in SIDE_FILES for file in source.glob(pattern)}):
        if not file.name.endswith(INDEX_ENDING) and file.name != gptq_config.FILE:
            shutil.copyfile(file, folder / file.name)
    values = json.loads((source / "config.json").read_text())
    own = {key: value for key, value in as_llama(values).items() if key != "quantization_config"}
    if own != values:
        (folder / "config.json").write_text(json.dumps(own, indent=2))


def _whole(value: Tensor) -> Tensor:
    """A tensor that shares its memory with no other, as experts cut out of one do."""
    alone = value.untyped_storage().nbytes() == value.nbytes
    return value.contiguous() if alone else value.clone(memory_format=torch.contiguous_format)
