"""Memory that was freed goes back: what products were packed into, and what a long text was cut with."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

import pytest
import torch

from squeeze.models.language import memory


def test_what_products_are_packed_into_goes_back() -> None:
    if memory._freeing_in_mkl() is None:
        pytest.skip("torch is built without MKL here")
    released: list[int] = []

    def free() -> None:
        before = resident_bytes()
        memory.free_packed_factors()
        memory.trim_heap(cycles=False)
        released.append(before - resident_bytes())

    left, right = torch.ones(2048, 576), torch.ones(576, 4096)
    _ = left @ right
    free()
    free()
    assert released[0] > 2**20 > released[1]
    assert torch.equal(left @ right, torch.full((2048, 4096), 576.0))


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_without_mkl_or_glibc_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    memory._freeing_in_mkl.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    try:
        memory.free_packed_factors()
        assert memory._freeing_in_mkl() is None
    finally:
        memory._freeing_in_mkl.cache_clear()


def test_what_is_worked_out_apart_comes_back_and_so_does_what_it_raises() -> None:
    assert memory.apart(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        memory.apart(lambda: 1 // 0)


def test_torch_keeps_code_for_few_shapes_of_products() -> None:
    assert int(os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"]) <= 128
