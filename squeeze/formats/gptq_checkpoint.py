"""A grid as the tensors of a GPTQ checkpoint, as auto-gptq wrote them and gptqmodel reads them.

Beside a linear's name: ``qweight`` int32 ``[in * bits / 32, out]``, each column a stream of unsigned integers along
``in``; ``qzeros`` int32 ``[groups, out * bits / 32]``, a stream along ``out``; ``scales`` float16 ``[groups, out]``;
``g_idx`` int32 ``[in]``, the group of each input channel. Version 1 stores each zero point less one, version 2 as is.

Frantar et al., 2022, https://arxiv.org/abs/2210.17323.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import ModelError
from squeeze.formats.grid_kind import GridKind
from squeeze.formats.words import WORD, dtype_fault, from_words, to_words

PARTS = ("qweight", "qzeros", "scales", "g_idx")
BITS = (2, 3, 4, 8)
GROUPS = (16, 32, 64, 128, 256, 512, 1024)  # group sizes that gptqmodel's kernels take


def holds(kind: GridKind, version: int) -> str | None:
    """Why a GPTQ checkpoint cannot hold such a grid; None where it can."""
    if not kind.symmetric and version == 1:
        return "gptqmodel opens an asymmetric grid in version 2 only; version: 2 would do"
    if kind.group_size is not None and kind.group_size not in GROUPS:
        sizes = ", ".join(map(str, GROUPS))
        return f"readers of GPTQ checkpoints know no group_size {kind.group_size}; {sizes} or null would do"
    for what, count in (("inputs", kind.columns), ("outputs", kind.rows)):
        if count * kind.bits % WORD:
            return f"{count} {what} of {kind.bits} bits do not fill whole 32-bit words; leave the weight out (exclude)"
    return None


def to_tensors(grid: QuantizedTensor, version: int) -> dict[str, Tensor]:
    """The four tensors of one linear.

    Raises:
        ModelError: version 1, and a zero point at the lowest integer, which it cannot store.
    """
    offset = 2 ** (grid.bits - 1)
    zeros = grid.zero_point + offset - (1 if version == 1 else 0)
    if int(zeros.min()) < 0:
        raise ModelError("a zero point at the lowest integer cannot be stored less one; version: 2 would do")
    columns = grid.q.shape[1]
    size = grid.group_size or columns
    g_idx = torch.arange(columns, dtype=torch.int32) // size if grid.g_idx is None else grid.g_idx.int()
    return {
        "qweight": to_words(grid.q.to(torch.int16) + offset, grid.bits).T.contiguous(),
        "qzeros": to_words(zeros.T, grid.bits),
        "scales": grid.scale.T.to(torch.float16).contiguous(),
        "g_idx": g_idx.clone(),
    }


def from_tensors(parts: Mapping[str, Tensor], bits: int, group_size: int | None, version: int) -> QuantizedTensor:
    """The grid of one linear, without requantizing.

    Args:
        parts: The tensors by their names in :data:`PARTS`; ``g_idx`` may be absent.
        group_size: None = per-channel.

    Raises:
        ModelError: what is stored is no grid of ours.
    """
    rows = parts["qweight"].shape[1]
    columns = parts["qweight"].shape[0] * WORD // bits
    shapes = {name: tuple(value.shape) for name, value in parts.items()}
    if fault := dtype_fault(parts) or shape_fault(shapes, bits, group_size):
        raise ModelError(fault)
    offset = 2 ** (bits - 1)
    stored = from_words(parts["qzeros"], bits, rows).T.int()
    if version == 1 and int(stored.max()) == 2**bits - 1:
        raise ModelError(f"qzeros holds {2**bits - 1} less one, a zero point that version 1 cannot store")
    zero_point = (stored + (1 if version == 1 else 0) - offset).contiguous()
    q = (from_words(parts["qweight"].T, bits, columns).to(torch.int16) - offset).to(torch.int8)
    scale = exact_scale(parts["scales"].T.contiguous(), "scales")
    g_idx = group_index(parts.get("g_idx"), columns, group_size)
    return QuantizedTensor(q, scale, zero_point, bits, group_size, not bool(zero_point.any()), g_idx)


def is_symmetric(qzeros: Tensor, bits: int, version: int, rows: int) -> bool:
    """True where every stored zero point of ``rows`` output channels stands for 0."""
    stored = from_words(qzeros, bits, rows)
    return bool((stored == 2 ** (bits - 1) - (1 if version == 1 else 0)).all())


def shape_fault(shapes: Mapping[str, tuple[int, ...]], bits: int, group_size: int | None) -> str | None:
    """What is wrong with the shapes of one linear's tensors; None where nothing is."""
    for name in PARTS[:3]:
        if len(shapes.get(name, ())) != 2:
            return f"no {name} of two dimensions is stored"
    rows, columns = shapes["qweight"][1], shapes["qweight"][0] * WORD // bits
    if not rows or not columns:
        return f"qweight is {list(shapes['qweight'])}, which holds no weights"
    size = group_size or columns
    if columns % size:
        return f"group_size {size} does not divide {columns} input channels"
    groups = columns // size
    expected = {"qzeros": (groups, rows * bits // WORD), "scales": (groups, rows), "g_idx": (columns,)}
    for name, shape in expected.items():
        if name in shapes and shapes[name] != shape:
            return f"{name} is {list(shapes[name])}, and {list(shape)} belongs to qweight {list(shapes['qweight'])}"
    return None


def group_index(g_idx: Tensor | None, columns: int, group_size: int | None) -> Tensor | None:
    """The stored group of each input channel; None where groups are consecutive channels.

    Raises:
        ModelError: it names groups that are not there.
    """
    size = group_size or columns
    if g_idx is None or torch.equal(g_idx.long(), torch.arange(columns) // size):
        return None
    if int(g_idx.min()) < 0 or int(g_idx.max()) >= columns // size:
        low, high = int(g_idx.min()), int(g_idx.max())
        raise ModelError(f"g_idx names groups {low} to {high}, and there are groups 0 to {columns // size - 1}")
    return g_idx.int()


def exact_scale(stored: Tensor, what: str) -> Tensor:
    """Scales as float32; raises ``ModelError`` where they are not finite, or finer than float16."""
    scale = stored.float()
    if not bool(torch.isfinite(scale).all()):
        raise ModelError(f"{what} holds numbers that are not finite")
    if not torch.equal(scale.half().float(), scale):
        why = "not exact in float16, in which the grid keeps them"
        raise ModelError(f"{what} holds {stored.dtype} numbers that are {why}")
    return scale
