"""A quantized model as the compressed-tensors folder that vLLM and transformers load."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from squeeze.errors import MissingExtra
from squeeze.formats.compressed_tensors import PARTS, holds, to_tensors
from squeeze.formats.compressed_tensors_config import config_of
from squeeze.formats.grid_kind import GridKind
from squeeze.models.language.language_model import LanguageModel
from squeeze.writers.base import Writer
from squeeze.writers.packed_folder import linears, write_packed
from squeeze.writers.proof import Equality, Read, packed_linears


def _decompressor(folder: Path) -> Read:
    try:
        from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
        from compressed_tensors.quantization import QuantizationConfig
        from compressed_tensors.utils.match import match_name
    except ImportError:
        how = "pip install 'squeeze[compressed-tensors]'"
        raise MissingExtra(f"packed tensors are read by compressed-tensors; {how}") from None
    values = json.loads((folder / "config.json").read_text())["quantization_config"]
    groups: list[Any] = list(QuantizationConfig.model_validate(values).config_groups.values())

    def read(module: str, stored: Mapping[str, Tensor]) -> Tensor:
        matches = [group for group in groups if any(match_name(module, target) for target in group.targets)]
        scheme = (matches or [group for group in groups if "Linear" in group.targets])[0]
        weight: Tensor = PackedQuantizationCompressor.decompress(dict(stored), scheme)["weight"]
        return weight

    return read


class CompressedTensorsWriter(Writer[LanguageModel]):
    """A folder of pack-quantized tensors."""

    name = "compressed-tensors"
    extra = "compressed-tensors"

    def holds(self, kind: GridKind) -> str | None:
        return holds(kind)

    def write(self, model: LanguageModel, folder: Path) -> Path:
        """Write the folder, one block in memory at a time; the rest is float16."""
        packing = linears(model, holds)
        write_packed(model, folder, to_tensors, config_of(packing.packed, [*packing.left_out, *packing.ends]))
        return folder / "config.json"

    def prove(self, model: LanguageModel, file: Path) -> Iterator[Equality]:
        """Each packed linear, as the format's own package decompresses it; raises ``MissingExtra`` without it."""
        return packed_linears(model, file.parent, self.name, self.name, PARTS, _decompressor(file.parent))
