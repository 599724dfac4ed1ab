"""A quantized model as the compressed-tensors folder that vLLM and transformers load."""

from __future__ import annotations

from pathlib import Path

from squeeze.formats.compressed_tensors import holds, to_tensors
from squeeze.formats.compressed_tensors_config import config_of
from squeeze.models.language.language_model import LanguageModel
from squeeze.writers.packed_folder import linears, write_packed


def write_compressed_tensors(model: LanguageModel, folder: Path) -> None:
    """Write the folder, one block in memory at a time; the rest is float16.

    Raises:
        ModelError: a weight that compressed-tensors cannot hold.
    """
    found = linears(model, holds)
    write_packed(model, folder, to_tensors, config_of(found.packed, [*found.left_out, *found.ends]))
