"""How much memory work on a language model takes, by its shapes alone; ``benchmarks/memory.py`` measures it.

Pages of mapped files count as memory while they are in use, as the system counts them.
"""

from __future__ import annotations

from torch import Tensor

from squeeze.blocks.wide_products import ROWS_VALUES
from squeeze.models.language.language_model import LanguageModel

PROCESS_BYTES = 450_000_000  # Python, torch and transformers, and what the libraries of products keep for themselves
FLOAT = 4  # bytes
RUN_COPIES = 3  # copies of a decoder's weights while ONNX Runtime loads: mapped, read, packed
WIDENED_BYTES = 3 * FLOAT * ROWS_VALUES  # the part of half-precision weights that is widened for a product


def largest_block_bytes(model: LanguageModel) -> int:
    """Of the block with the largest weights, as stored dense."""
    return max(sum(p.nbytes for p in block.parameters()) for block in model.skeleton.layers)


def block_matrices(model: LanguageModel) -> list[tuple[str, Tensor]]:
    """Names inside the block, and meta tensors, of the matrices of the largest block; experts lie in one tensor."""
    block = max(model.skeleton.layers, key=lambda layer: sum(p.nbytes for p in layer.parameters()))
    return [(name, value) for name, value in block.named_parameters() if value.dim() > 1]


def ends_bytes(model: LanguageModel) -> int:
    """Of embedding and head, whichever is stored."""
    shapes = dict(model.skeleton.module.named_parameters())
    return sum(shapes[name].nbytes for name in model.skeleton.ends)


def largest_end_bytes(model: LanguageModel) -> int:
    """Of the larger one of embedding and head."""
    shapes = dict(model.skeleton.module.named_parameters())
    return max(shapes[name].nbytes for name in model.skeleton.ends)


def head_bytes(model: LanguageModel) -> int:
    """Of embedding and head while logits are worked out."""
    head = model.skeleton.module.get_output_embeddings().weight  # type: ignore[operator]
    return ends_bytes(model) + (WIDENED_BYTES if head.element_size() < FLOAT else 0)


def activation_bytes(model: LanguageModel, tokens: int, memory_bytes: int | None) -> int:
    """Of all calibration tokens between two blocks; a plan with a limit puts them on disk past a quarter of it."""
    nbytes = tokens * model.skeleton.token_bytes
    return nbytes if memory_bytes is None else min(nbytes, memory_bytes // 4)


def kept_inputs_bytes(model: LanguageModel, tokens: int, most: int) -> int:
    """Of what goes into the matrices that write to the stream, as far as it may be kept: at most.

    Args:
        most: Bytes that may be kept.
    """
    embedding = model.skeleton.module.get_input_embeddings().weight  # type: ignore[operator]
    writing = [value for _, value in block_matrices(model) if value.dim() == 2 and len(value) == embedding.shape[1]]
    each = [tokens * int(value.shape[1]) * int(embedding.element_size()) for value in writing]
    return min(most, sum(nbytes for nbytes in each if nbytes <= most))  # of each all or nothing


def forward_bytes(model: LanguageModel, tokens: int) -> int:
    """Of a chunk of tokens inside a block: what the widest matrices give and take."""
    matrices = [value for _, value in block_matrices(model)]
    widest = max(max(value.shape[-2:]) for value in matrices)
    narrow = matrices[0].element_size() < FLOAT
    return 4 * tokens * widest * FLOAT + (WIDENED_BYTES if narrow else 0)


def shared_shapes(model: LanguageModel) -> list[tuple[int, int]]:
    """``(out, in)`` of matrices that may share an input, one under the other: those beside each other, equally wide."""
    return [(sum(outs), width) for outs, width in beside_shapes(model)]


def beside_shapes(model: LanguageModel) -> list[tuple[list[int], int]]:
    """The same with the ``out`` of each matrix."""
    groups: dict[tuple[str, int], list[int]] = {}
    for name, value in block_matrices(model):
        out, width = value.shape[-2:]
        beside = name.rpartition(".")[0].rpartition(".")[0]
        groups.setdefault((beside, width), []).append(out)
    return [(outs, width) for (_, width), outs in groups.items()]


def gradient_bytes(model: LanguageModel, tokens: int) -> int:
    """Of a chunk of float32 tokens inside a block that gradients flow back through: what is kept, and the gradients."""
    each = sum(sum(value.shape[-2:]) for _, value in block_matrices(model))
    return 2 * FLOAT * tokens * each + WIDENED_BYTES
