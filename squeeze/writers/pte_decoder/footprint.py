"""How much memory it takes to write a language model's ``.pte`` file, by shapes; ``benchmarks/memory.py`` measures it.

The peak is where the head is lowered: beside the table, the exported blocks and what those have become, it lies there
as integers of a byte each, and as copies on the way into the file. Other blocks are copied one by one and wait on disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from squeeze.formats.grid_kind import GridKind
from squeeze.models.language.footprint import FLOAT
from squeeze.models.language.language_model import LanguageModel
from squeeze.writers.pte_decoder.pattern import pattern_of

PROCESS_BYTES = 600_000_000  # Python, torch, transformers, ExecuTorch's exporter and the graphs; fitted on six models
PARAMETER_BYTES = 8  # of a group's scale and zero point in the module
PACKED_COPIES = 1.5  # bytes that it takes to put two integers of 4 bits into one, per integer


def peak_bytes(model: LanguageModel, grid: Mapping[str, GridKind], context: int) -> int:
    """Of the process that exports; ``grid`` says what the weights lie on by then."""
    pattern = pattern_of(model, grid)
    blocks = pattern.kept if pattern else range(model.blocks)
    inside = sum(_in_module(value, kind) + _in_file(value, kind) for value, kind in _of_blocks(model, blocks, grid))
    caches = FLOAT * context * model.cache_values()
    return PROCESS_BYTES + inside + caches + _ends_bytes(model, grid)


def _of_blocks(
    model: LanguageModel, blocks: range | list[int], grid: Mapping[str, GridKind]
) -> Iterator[tuple[Tensor, GridKind | None]]:
    """The weights of some blocks, without numbers, and the grids that they lie on."""
    for index in blocks:
        prefix, names = model.skeleton.prefix(index), model.skeleton.block_names(index)
        for name in names:
            yield model.skeleton.layers[index].get_parameter(name), grid.get(prefix + name)


def _ends_bytes(model: LanguageModel, grid: Mapping[str, GridKind]) -> int:
    """Of the table and of the head while it is lowered."""
    ends, shapes = model.skeleton.ends, dict(model.skeleton.module.named_parameters())
    table, head = shapes[ends[0]], shapes[ends[-1]]
    rows, kind = grid.get(ends[0]), grid.get(ends[-1])
    copies = _in_file(head, kind) if kind is None or kind.bits == 8 else round(PACKED_COPIES * head.numel())
    stored = table.nbytes if rows is None else _in_file(table, rows)
    return stored + _in_module(head, kind) + _in_file(head, kind) + copies


def _in_module(value: Tensor, kind: GridKind | None) -> int:
    """Of a weight as the module computes with it: floats, or integers of a byte each."""
    return FLOAT * value.numel() if kind is None else value.numel() + PARAMETER_BYTES * kind.rows * kind.groups


def _in_file(value: Tensor, kind: GridKind | None) -> int:
    return FLOAT * value.numel() if kind is None else kind.nbytes
