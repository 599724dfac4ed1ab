"""Hadamard matrices: entries of one size, rows at right angles.

Sylvester's doubling (1867) for factors of two, Paley's two constructions (1933) for what is left: 12, 20, 28, 36, ...
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def hadamard(order: int) -> Tensor | None:
    """Ones, plus and minus, float32 ``[order, order]``, with ``H H^T = order I``; None: no construction is known."""
    if order == 1:
        return torch.ones(1, 1)
    half = hadamard(order // 2) if order % 2 == 0 else None
    if half is not None:
        return torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), half)
    if order % 4 == 0 and _is_prime(order - 1):
        return _paley_one(order - 1)
    if order % 4 == 0 and _is_prime(order // 2 - 1) and (order // 2 - 1) % 4 == 1:
        return _paley_two(order // 2 - 1)
    return None


def _paley_one(q: int) -> Tensor:
    """Order ``q + 1`` from a prime ``q = 3 mod 4``."""
    skew = _bordered(q, border=-1)
    return skew + torch.eye(q + 1)


def _paley_two(q: int) -> Tensor:
    """Order ``2 (q + 1)`` from a prime ``q = 1 mod 4``."""
    symmetric = _bordered(q, border=1)
    entries, diagonal = torch.tensor([[1.0, 1.0], [1.0, -1.0]]), torch.tensor([[1.0, -1.0], [-1.0, -1.0]])
    return torch.kron(symmetric, entries) + torch.kron(torch.eye(q + 1), diagonal)


def _bordered(q: int, border: int) -> Tensor:
    """The conference matrix: zero corner, ones above, ``border`` to the left, quadratic characters within."""
    index = torch.arange(q)
    character = torch.full((q,), -1.0)
    character[index[1:].square() % q] = 1
    character[0] = 0
    matrix = torch.ones(q + 1, q + 1)
    matrix[1:, 0], matrix[0, 0] = border, 0
    matrix[1:, 1:] = character[(index[:, None] - index) % q]
    return matrix


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % divisor for divisor in range(2, int(n**0.5) + 1))
