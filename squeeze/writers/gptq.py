"""A quantized model as the GPTQ checkpoint that auto-gptq's heirs load: gptqmodel, transformers with optimum, vLLM."""

from __future__ import annotations

import json
from importlib.metadata import version as installed
from pathlib import Path

from squeeze.formats import gptq_config
from squeeze.formats.gptq_checkpoint import holds, to_tensors
from squeeze.models.language.language_model import LanguageModel
from squeeze.writers.packed_folder import Linears, linears, write_packed


def write_gptq(model: LanguageModel, folder: Path, version: int = 2) -> None:
    """Write the folder, one block in memory at a time; the rest is float16.

    Args:
        version: 1 stores zero points less one, as auto-gptq did; 2 as they are.

    Raises:
        ModelError: a weight that a GPTQ checkpoint of this version cannot hold.
    """
    found = linears(model, lambda kind: holds(kind, version))
    quantizer = f"squeeze:{installed('squeeze')}"
    values = gptq_config.config_of(found.packed, found.left_out, version, quantizer)
    if found.left_out and (inside := _inside_blocks(model, found)):
        values["modules_in_block_to_quantize"] = [inside]  # what transformers with optimum looks at
    write_packed(model, folder, lambda grid: to_tensors(grid, version), values)
    (folder / gptq_config.FILE).write_text(json.dumps(values, indent=2) + "\n")


def _inside_blocks(model: LanguageModel, found: Linears) -> list[str]:
    """Names inside a block of its packed linears, where they are the same in every block; else none."""
    by_block = [set[str]() for _ in range(model.blocks)]
    for name in found.packed:
        number, _, inside = name.removeprefix(f"{model.skeleton.layers_name}.").partition(".")
        if not number.isdigit():
            return []
        by_block[int(number)].add(inside)
    return sorted(by_block[0]) if all(names == by_block[0] for names in by_block) else []
