"""A quantized model as one .gguf file, with one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from squeeze.errors import ModelError, SqueezeError
from squeeze.formats.gguf_blocks import TWO_BITS, WEIGHTS, fits_two_bits, holds, narrowest, to_blocks
from squeeze.formats.gguf_file import DENSE, Entry, PackageReader, write
from squeeze.formats.gguf_types import gguf
from squeeze.formats.grid_kind import GridKind
from squeeze.models.language.dense import copy_side_files
from squeeze.models.language.from_gguf.rope import llama3_factors
from squeeze.models.language.gguf.architecture import ARCHITECTURES, Architecture, describe, faults, head_size
from squeeze.models.language.gguf.tensors import dense_of, grid_of, kind_of_dense, rows_of, shape_of
from squeeze.models.language.gguf.tokenizer import add_tokenizer
from squeeze.models.language.gguf_names import PAIRED, Source, sources
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.memory import trim_after
from squeeze.runtimes.ggml import GgmlReader
from squeeze.runtimes.llama_cpp import ADAPTER_NAME, FILE_NAME
from squeeze.writers.base import Writer
from squeeze.writers.gguf_adapter import prove_adapter, write_adapter
from squeeze.writers.proof import Equality, compared, joined

FILE_TYPES = {TWO_BITS: 41, "Q4_0": 2, "Q4_1": 3, "Q5_0": 8, "Q8_0": 7}  # LLAMA_FTYPE_MOSTLY_... of llama.h
MOSTLY_F16 = 1


def write_gguf(model: LanguageModel, file: Path, two_bits: bool = False) -> None:
    """Write the file; it appears whole or not at all.

    Quantized weights keep their integers and scales, in the narrowest type that holds them exactly; the rest is
    float32 (norms, biases, routers), bfloat16 where it is so, or float16.

    Args:
        two_bits: Q2_0 is one of these types.

    Raises:
        ModelError: a family, a tokenizer or a grid that llama.cpp cannot be given, with the reason.
        MissingExtra: the package gguf is not installed.
    """
    package = gguf()
    architecture = architecture_of(model)
    writer = package.GGUFWriter(None, architecture.name)
    describe(writer, model.skeleton.config, architecture)
    add_tokenizer(writer, model.folder, model.vocabulary)
    all_sources = list(sources(model.skeleton, architecture.name))
    entries = [_entry(model, source, architecture, two_bits) for source in all_sources]
    factors = _rope_factors(model)
    entries = [*(Entry(name, tuple(value.shape), "F32") for name, value in factors.items()), *entries]
    used = [entry.kind for entry in entries if entry.kind in FILE_TYPES]
    most = max(set(used), key=used.count) if used else None
    writer.add_quantization_version(package.GGML_QUANT_VERSION)
    writer.add_file_type(FILE_TYPES[most] if most else MOSTLY_F16)
    kinds = {entry.name: entry.kind for entry in entries}
    write(file, writer, entries, _tensors(model, factors, all_sources, kinds, architecture))


def architecture_of(model: LanguageModel) -> Architecture:
    """The family in llama.cpp's terms.

    Raises:
        ModelError: llama.cpp, or this writer, does not know it, or would compute it otherwise.
    """
    config = model.skeleton.config
    kind = config.model_type
    if kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelError(f"{model.folder}: no GGUF architecture is written for model_type '{kind}'; {known} are")
    architecture = ARCHITECTURES[kind]
    if odd := list(faults(config, architecture)):
        raise ModelError(f"{model.folder}: llama.cpp's {architecture.name} does not compute {', '.join(odd)}")
    return architecture


def _entry(model: LanguageModel, source: Source, architecture: Architecture, two_bits: bool) -> Entry:
    shape = shape_of(model, source)
    if source.origin not in model.grid:
        value = torch.empty(shape, dtype=model.tensor(source.origin).dtype, device="meta")
        return Entry(source.name, shape, kind_of_dense(source, value))
    try:
        return Entry(source.name, shape, narrowest(grid_of(model, source, architecture), two_bits))
    except ModelError as error:
        raise ModelError(f"{source.origin}: {error}") from None


def _tensors(
    model: LanguageModel,
    factors: dict[str, Tensor],
    all_sources: list[Source],
    kinds: dict[str, str],
    architecture: Architecture,
) -> Iterator[Tensor]:
    yield from factors.values()
    for source in all_sources:
        kind = kinds[source.name]
        if kind in DENSE:
            yield _dense(source, dense_of(model, source, architecture), DENSE[kind])
        else:
            yield to_blocks(grid_of(model, source, architecture), kind)


def _dense(source: Source, value: Tensor, dtype: torch.dtype) -> Tensor:
    stored = value.to(dtype)
    if not bool(torch.isfinite(stored).all()):
        raise ModelError(f"{source.origin}: {float(value.abs().max()):.3g} is too large for {dtype}")
    return stored


def _rope_factors(model: LanguageModel) -> dict[str, Tensor]:
    """What rotary frequencies are divided by, where a family stretches them one by one."""
    config: Any = model.skeleton.config
    rope = config.rope_parameters
    if rope.get("rope_type") == "llama3":
        return {"rope_freqs.weight": llama3_factors(rope, head_size(config))}
    if rope.get("rope_type") == "longrope":
        names = {"long_factor": "rope_factors_long.weight", "short_factor": "rope_factors_short.weight"}
        return {name: torch.tensor(rope[key], dtype=torch.float32) for key, name in names.items()}
    return {}


def _compared(
    reader: PackageReader | GgmlReader, model: LanguageModel, source: Source, architecture: Architecture
) -> Equality:
    """One weight beside what another reader makes of the file; where no row was moved, some rows at a time."""
    name, reads = source.name, reader.name
    if rows_of(model, source, architecture) is not None or len(model.grid[source.origin].shape) > 2:
        own = _as_llama_cpp(model, source, architecture)
        return compared(name, "gguf", reads, own, reader.dense(name))
    grid = model.quantized(source.origin)
    step = max(1, WEIGHTS // grid.q.shape[1])
    rows = max(len(grid.q), reader.rows(name))  # surplus rows of the file have nothing to be equal to
    parts = [slice(start, start + step) for start in range(0, rows, step)]
    read = ((grid.rows(part).dequantize(), reader.dense(name, part)) for part in parts)
    return joined([compared(name, "gguf", reads, *pair) for pair in read])


def _as_llama_cpp(model: LanguageModel, source: Source, architecture: Architecture) -> Tensor:
    """The real numbers in llama.cpp's order, moved as its own convert_hf_to_gguf.py moves them."""
    real = model.quantized(source.origin).dequantize().reshape(model.grid[source.origin].shape)
    if source.parts > 1:
        return real.tensor_split(source.parts, dim=-2)[source.part]
    if architecture.interleaved and source.origin.endswith(tuple(f".{name}.weight" for name in PAIRED)):
        heads = real.shape[0] // head_size(model.skeleton.config)
        return real.reshape(heads, 2, -1, real.shape[1]).swapaxes(1, 2).reshape(real.shape)
    return real


class GgufWriter(Writer[LanguageModel]):
    """``model.gguf``, the tokenizer beside it, and ``adapter.gguf`` where the model has one.

    Args:
        two_bits: Write Q2_0 where a grid fits it.
    """

    name = "gguf"
    extra = "gguf"

    def __init__(self, two_bits: bool = False) -> None:
        self.two_bits = two_bits

    def holds(self, kind: GridKind) -> str | None:
        return holds(kind)

    def faults(self, model: LanguageModel) -> Iterator[str]:
        try:
            architecture_of(model)
        except SqueezeError as error:
            yield str(error)

    def write(self, model: LanguageModel, folder: Path) -> Path:
        copy_side_files(model.folder, folder)
        write_gguf(model, folder / FILE_NAME, self.two_bits)
        if model.adapter is not None:
            write_adapter(model, model.adapter, architecture_of(model), folder / ADAPTER_NAME)
        return folder / FILE_NAME

    def prove(self, model: LanguageModel, file: Path) -> Iterator[Equality]:
        """Each block-quantized tensor, and those of an adapter, as the gguf package or ggml dequantizes them.

        Raises:
            MissingExtra: gguf is not installed; or llama.cpp is not, which alone reads Q2_0.
        """
        has_two_bits = self.two_bits and any(map(fits_two_bits, model.grid_kinds().values()))
        reader = GgmlReader(file) if has_two_bits else PackageReader(file)
        architecture = architecture_of(model)
        trim_after(model.nbytes())
        for source in sources(model.skeleton, architecture.name):
            if source.origin in model.grid:
                yield _compared(reader, model, source, architecture)
        del reader
        trim_after(model.nbytes())
        if model.adapter is not None:
            yield from prove_adapter(model, model.adapter, architecture, file.parent / ADAPTER_NAME)
