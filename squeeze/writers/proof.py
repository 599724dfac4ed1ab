"""Whether a file's own ecosystem reads from it the very weights of the grid: each weight, bit for bit.

The other side is never our reader: gptqmodel's packed linear, compressed-tensors' decompressor, the gguf package's
``dequantize``. Our side is never what the writer moved: a weight is dequantized as the model has it, and the real
numbers are put in the file's order. Equal means equal in the float type that the format computes in, which is float16
for packed checkpoints (their scales are float16) and float32 for GGUF.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from squeeze.errors import EffectError, MissingExtra, ModelError
from squeeze.formats import compressed_tensors, gguf_file, gptq_checkpoint
from squeeze.models.language.gguf.architecture import Architecture, head_size
from squeeze.models.language.gguf_names import PAIRED, Source, sources
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.names import as_stored
from squeeze.models.language.shards import Shards
from squeeze.models.language.skeleton import Skeleton
from squeeze.progress import no_foreign_bars
from squeeze.writers.gguf import architecture_of
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
        """Every number is the same."""
        return self.differing == 0


def proven(equalities: Iterable[Equality]) -> list[dict[str, Any]]:
    """One line per format, reader and float type, for the ledger: tensors and weights compared, all of them equal.

    Raises:
        EffectError: a reader sees other weights.
    """
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    for found in equalities:
        if not found.equal:
            where = f"{found.form}: {found.name}: {found.reader} reads {found.differing} of {found.weights} weights"
            raise EffectError(f"{where} otherwise than they were written, in {found.dtype}; none would be right")
        key = (found.form, found.reader, found.dtype)
        facts = {"format": found.form, "reader": found.reader, "dtype": found.dtype}
        line = lines.setdefault(key, facts | {"tensors": 0, "weights": 0, "differing": 0})
        line["tensors"] += 1
        line["weights"] += found.weights
    return list(lines.values())


def prove_gptq(model: LanguageModel, folder: Path) -> Iterator[Equality]:
    """Each packed linear of a GPTQ checkpoint, as gptqmodel's reference linear dequantizes it.

    Raises:
        MissingExtra: gptqmodel is not installed.
    """
    return _packed(model, folder, "gptq", "gptqmodel", gptq_checkpoint.PARTS, _gptqmodel(folder))


def prove_compressed_tensors(model: LanguageModel, folder: Path) -> Iterator[Equality]:
    """Each packed linear of a compressed-tensors folder, as its own package decompresses it.

    Raises:
        MissingExtra: compressed-tensors is not installed.
    """
    form, parts = "compressed-tensors", compressed_tensors.PARTS
    return _packed(model, folder, form, form, parts, _decompressor(folder))


def prove_gguf(model: LanguageModel, file: Path) -> Iterator[Equality]:
    """Each block-quantized tensor of a .gguf file, as the gguf package dequantizes it.

    Raises:
        MissingExtra: gguf is not installed.
    """
    reader, architecture = gguf_file.read(file), architecture_of(model)
    for source in sources(model.skeleton, architecture.name):
        if source.origin in model.grid:
            own = _as_llama_cpp(model, source, architecture)
            yield _compare(source.name, "gguf", "gguf", own, gguf_file.dense(reader, source.name))


def _as_llama_cpp(model: LanguageModel, source: Source, architecture: Architecture) -> Tensor:
    """The real numbers in llama.cpp's order, moved as its own convert_hf_to_gguf.py moves them."""
    real = model.quantized(source.origin).dequantize().reshape(model.grid[source.origin].shape)
    if source.parts > 1:
        return real.tensor_split(source.parts, dim=-2)[source.part]
    if architecture.interleaved and source.origin.endswith(tuple(f".{name}.weight" for name in PAIRED)):
        heads = real.shape[0] // head_size(model.skeleton.config)
        return real.reshape(heads, 2, -1, real.shape[1]).swapaxes(1, 2).reshape(real.shape)
    return real


def _packed(
    model: LanguageModel, folder: Path, form: str, reader: str, parts: tuple[str, ...], read: Read
) -> Iterator[Equality]:
    shards = Shards(folder)
    for module, own in _weights(model):
        stored = {part: shards.read(f"{module}.{part}") for part in parts if f"{module}.{part}" in shards}
        yield _compare(module, form, reader, own, read(module, stored))


def _weights(model: LanguageModel) -> Iterator[tuple[str, Tensor]]:
    """Every packed linear ``[out, in]`` in float16 by its name in a checkpoint, one block in memory at a time."""
    skeleton: Skeleton = model.skeleton
    for index in range(model.blocks):
        names = packed_names(model, [skeleton.prefix(index) + name for name in skeleton.block_names(index)])
        real = {name: model.quantized(name).dequantize().half().reshape(model.grid[name].shape) for name in names}
        stored = as_stored(skeleton.module, real) if real else {}
        yield from ((name.removesuffix(WEIGHT), value) for name, value in stored.items())


def _compare(name: str, form: str, reader: str, own: Tensor, read: Tensor) -> Equality:
    if own.shape != read.shape or own.dtype != read.dtype:
        what = f"{list(read.shape)} {read.dtype}, and {list(own.shape)} {own.dtype} was written"
        raise ModelError(f"{name}: {reader} reads {what}")
    bits = torch.int16 if own.dtype == torch.float16 else torch.int32
    zero = torch.zeros((), dtype=own.dtype)  # -0.0 and 0.0 are the same weight
    same = torch.eq((own + zero).contiguous().view(bits), (read + zero).contiguous().view(bits))
    return Equality(name, form, reader, str(own.dtype).removeprefix("torch."), own.numel(), int((~same).sum()))


def _gptqmodel(folder: Path) -> Read:
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # else it takes one for each core of a large server
    try:
        with no_foreign_bars():
            from gptqmodel import QuantizeConfig
            from gptqmodel.nn_modules.qlinear.torch import TorchLinear
            from gptqmodel.quantization import FORMAT
            from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module
    except ImportError:
        raise MissingExtra("GPTQ checkpoints are read by gptqmodel; pip install 'squeeze[gptq]'") from None
    config: Any = QuantizeConfig.from_pretrained(str(folder))

    def read(module: str, stored: Mapping[str, Tensor]) -> Tensor:
        rows, columns = stored["qweight"].shape[1], len(stored["g_idx"])
        bits, size, symmetric = (
            config.dynamic_get(module, key, default)
            for key, default in (("bits", config.bits), ("group_size", config.group_size), ("sym", config.sym))
        )
        linear = TorchLinear(bits, size, symmetric, config.desc_act, columns, rows)
        linear.load_state_dict(dict(stored), strict=False)
        if config.format == FORMAT.GPTQ:
            convert_gptq_v1_to_v2_format_module(linear, bits, torch.int32)
        linear.optimized = True  # it would be compiled for a single call
        linear.post_init()
        weight: Tensor = linear.eval().dequantize_weight().T
        return weight

    return read


def _decompressor(folder: Path) -> Read:
    try:
        from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
        from compressed_tensors.quantization import QuantizationConfig
        from compressed_tensors.utils.match import match_name
    except ImportError:
        raise MissingExtra(
            "packed tensors are read by compressed-tensors; pip install 'squeeze[compressed-tensors]'"
        ) from None
    values = json.loads((folder / "config.json").read_text())["quantization_config"]
    groups: list[Any] = list(QuantizationConfig.model_validate(values).config_groups.values())

    def read(module: str, stored: Mapping[str, Tensor]) -> Tensor:
        named = [group for group in groups if any(match_name(module, target) for target in group.targets)]
        scheme = (named or [group for group in groups if "Linear" in group.targets])[0]
        weight: Tensor = PackedQuantizationCompressor.decompress(dict(stored), scheme)["weight"]
        return weight

    return read
