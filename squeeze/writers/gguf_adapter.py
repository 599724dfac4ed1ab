"""A low-rank adapter as the .gguf file that llama.cpp lays over a model of the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from squeeze.formats.gguf_file import Entry, PackageReader, write
from squeeze.formats.gguf_types import gguf
from squeeze.models.language.adapter import AdapterFolder
from squeeze.models.language.gguf.architecture import Architecture
from squeeze.models.language.gguf.tensors import rows_of
from squeeze.models.language.gguf_names import sources
from squeeze.models.language.language_model import LanguageModel
from squeeze.writers.proof import Equality, compared

DOWN, UP = "lora_a", "lora_b"  # endings of llama.cpp's names: [rank, in] and [out, rank]


def write_adapter(model: LanguageModel, adapter: AdapterFolder, architecture: Architecture, file: Path) -> None:
    """Write the file, float32; it appears whole or not at all."""
    package = gguf()
    writer = package.GGUFWriter(None, architecture.name)
    writer.add_type(package.GGUFType.ADAPTER)
    writer.add_string(package.Keys.Adapter.TYPE, "lora")
    writer.add_float32(package.Keys.Adapter.LORA_ALPHA, adapter.factor * adapter.rank)
    shapes = {name: tuple(tensor.shape) for name, tensor in _tensors(model, adapter, architecture)}
    entries = [Entry(name, shape, "F32") for name, shape in shapes.items()]
    write(file, writer, entries, (tensor for _, tensor in _tensors(model, adapter, architecture)))


def prove_adapter(
    model: LanguageModel, adapter: AdapterFolder, architecture: Architecture, file: Path
) -> Iterator[Equality]:
    """Each tensor, as the gguf package reads it."""
    reader = PackageReader(file)
    for name, own in _tensors(model, adapter, architecture):
        yield compared(name, "gguf", "gguf", own, reader.dense(name))


def _tensors(model: LanguageModel, adapter: AdapterFolder, architecture: Architecture) -> Iterator[tuple[str, Tensor]]:
    """Under llama.cpp's names, with the rows of what is added in the order of the weight's."""
    for source in sources(model.skeleton, architecture.name):
        if source.origin in adapter.names:
            update, order = adapter.update(source.origin), rows_of(model, source, architecture)
            yield f"{source.name}.{DOWN}", update.down
            yield f"{source.name}.{UP}", update.up if order is None else update.up[order]
