"""Rotations: spread outlier channels over all channels by an orthogonal matrix that the network cannot notice.

QuaRot, Ashkboos et al., 2024, https://arxiv.org/abs/2404.00456; SpinQuant, Liu et al., 2024,
https://arxiv.org/abs/2405.16406. An RMSNorm without weights commutes with every rotation, so a residual stream may be
turned as a whole: what writes it turns its outputs, what reads it turns its inputs. First each norm's weights are
folded into the linears that read it. All of it is done once, on weights; nothing is left to do at run time.

Shapes: ``hidden`` = width of what is turned; weights are ``[out, in]``. Vectors are rows: ``x`` becomes ``x R``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from squeeze.algorithms.hadamard import hadamard
from squeeze.errors import ShapeError

FACTOR = 64  # a power of two is turned in factors of this order: two small products instead of one large one


@dataclass(frozen=True)
class Rotation:
    """``R``: random signs, then a Kronecker product of small orthogonal matrices.

    Args:
        signs: ``[hidden]``, plus or minus one.
        factors: Orthogonal, their orders multiply to ``hidden``.
    """

    signs: Tensor
    factors: tuple[Tensor, ...]

    def turn(self, x: Tensor) -> Tensor:
        """``x R`` for ``[..., in]``; a multiple of ``hidden`` is turned part by part, as heads are. The dtype stays."""
        hidden = len(self.signs)
        if x.shape[-1] % hidden:
            raise ShapeError(f"a rotation of {hidden} channels does not divide {x.shape[-1]}")
        rotated = x.reshape(-1, hidden).float() * self.signs
        after = hidden
        for factor in self.factors:
            after //= len(factor)
            rotated = factor.t() @ rotated.reshape(-1, len(factor), after)
        return rotated.reshape(x.shape).to(x.dtype)

    def matrix(self) -> Tensor:
        """float32 ``[hidden, hidden]``."""
        return self.turn(torch.eye(len(self.signs)))


def random_rotation(hidden: int, seed: int = 0) -> Rotation:
    """A Hadamard matrix with random signs; where none of that order is known, a random orthogonal matrix."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (hidden,), generator=generator).float() * 2 - 1
    core = hidden
    factors: list[Tensor] = []
    while core % 2 == 0 and hadamard(core // 2) is not None:  # split off all the twos that leave something known
        core //= 2
    power = hidden // core
    while power > 1:
        factors.append(_orthonormal(min(power, FACTOR)))
        power //= min(power, FACTOR)
    matrix = hadamard(core)
    odd = torch.linalg.qr(torch.randn(core, core, generator=generator)).Q if matrix is None else matrix / core**0.5
    return Rotation(signs, (*factors, odd.contiguous()))


def fold_norm(norm: Tensor, weight: Tensor) -> Tensor:
    """A weight ``[out, hidden]`` that does its norm's work ``[hidden]`` as well; the norm's own weight becomes ones."""
    return (weight.float() * norm.float()).to(weight.dtype)


def rotate_reader(weight: Tensor, rotation: Rotation) -> Tensor:
    """q, k, v, gate, up, lm_head ``[out, hidden]``, and embeddings ``[vocab, hidden]``: the columns are turned."""
    return rotation.turn(weight)


def rotate_writer(weight: Tensor, rotation: Rotation) -> Tensor:
    """o, down ``[hidden, in]``, or a bias ``[hidden]``: what comes out is turned."""
    if weight.dim() == 1:
        return rotation.turn(weight)
    rotated: Tensor = rotation.turn(weight.t()).t()
    return rotated.contiguous()


def _orthonormal(order: int) -> Tensor:
    matrix = hadamard(order)
    assert matrix is not None, "powers of two all have one"
    return matrix.div(order**0.5)
