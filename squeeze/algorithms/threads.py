"""How many threads torch works with, for as long as a ``with`` lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Set torch's number of threads; restore it afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """Rows this short cost more to share out than to do; on a busy machine, waiting for the other thread costs most."""
    with threads(1):
        yield
