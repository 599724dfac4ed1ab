"""A quantized model as the GPTQ checkpoint that auto-gptq's heirs load: gptqmodel, transformers with optimum, vLLM."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from squeeze.errors import MissingExtra
from squeeze.formats import gptq_checkpoint, gptq_config
from squeeze.formats.grid_kind import GridKind
from squeeze.models.language.language_model import LanguageModel
from squeeze.progress import no_foreign_bars
from squeeze.writers.base import Writer
from squeeze.writers.packed_folder import Linears, linears, write_packed
from squeeze.writers.proof import Equality, Read, packed_linears


def _inside_blocks(model: LanguageModel, packing: Linears) -> list[str]:
    """Names inside a block of its packed linears, where they are the same in every block; else none."""
    by_block = [set[str]() for _ in range(model.blocks)]
    for name in packing.packed:
        number, _, inside = name.removeprefix(f"{model.skeleton.layers_name}.").partition(".")
        if not number.isdigit():
            return []
        by_block[int(number)].add(inside)
    return sorted(by_block[0]) if all(names == by_block[0] for names in by_block) else []


def _gptqmodel(folder: Path) -> Read:
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # by default it takes one per core of a large server
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
        linear.optimized = True  # skip compilation, which a single call does not repay
        linear.post_init()
        weight: Tensor = linear.eval().dequantize_weight().T
        return weight

    return read


@dataclass(frozen=True)
class GptqWriter(Writer[LanguageModel]):
    """A GPTQ checkpoint.

    Args:
        version: 1 stores zero points less one, as auto-gptq did; 2 as they are.
    """

    name: ClassVar[str] = "gptq"
    extra: ClassVar[str | None] = "gptq"
    version: int = 2

    def holds(self, kind: GridKind) -> str | None:
        return gptq_checkpoint.holds(kind, self.version)

    def write(self, model: LanguageModel, folder: Path) -> Path:
        """Write the folder, one block in memory at a time; the rest is float16."""
        packing = linears(model, self.holds)
        quantizer = f"squeeze:{installed('squeeze')}"
        values = gptq_config.config_of(packing.packed, packing.left_out, self.version, quantizer)
        if packing.left_out and (inside := _inside_blocks(model, packing)):
            values["modules_in_block_to_quantize"] = [inside]  # read by transformers with optimum
        write_packed(model, folder, lambda grid: gptq_checkpoint.to_tensors(grid, self.version), values)
        (folder / gptq_config.FILE).write_text(json.dumps(values, indent=2) + "\n")
        return folder / "config.json"

    def prove(self, model: LanguageModel, file: Path) -> Iterator[Equality]:
        """Each packed linear, as gptqmodel's reference linear dequantizes it; raises ``MissingExtra`` without it."""
        parts = gptq_checkpoint.PARTS
        return packed_linears(model, file.parent, "gptq", "gptqmodel", parts, _gptqmodel(file.parent))
