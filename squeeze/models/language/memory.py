"""Memory that was freed goes back to the system, so that a peak does not grow with the number of blocks.

The C library keeps freed pages between those still in use; after a few blocks of large tensors of uneven sizes that is
as much as a block. Elsewhere than on glibc this does nothing. MKL, in torch, keeps what it packs the factors of a
product into, tens of megabytes for each thread.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")

LARGE_BYTES = 1 << 22  # from here on a tensor has pages of its own
REUSED_BYTES = 1 << 25  # the same where activations of one size follow each other: their pages are used again
TRIMMED_BYTES = 1 << 26  # of a model: from this size on, trim_after trims
M_MMAP_THRESHOLD = -3  # parameter number of mallopt


@contextmanager
def small_heap(large_bytes: int = LARGE_BYTES) -> Iterator[None]:
    """Large tensors get pages of their own, which go back to the system the moment they are freed; all else at the end.

    Left alone, glibc raises its threshold to 32 MB with the first large tensor that is freed, and lays the next ones
    side by side with what stays. Objects that exist already (hundreds of thousands
    after torch and transformers are imported) are frozen: looking through them for cycles takes a tenth of a second.

    Args:
        large_bytes: What is large. The system fills new pages with zeros each time, which takes time; what is smaller
            is used again, and goes back where :func:`trim_heap` is called.
    """
    library = _c_library()
    if library is not None:
        library.mallopt(M_MMAP_THRESHOLD, large_bytes)
    free_packed_factors()
    trim_heap(cycles=False)  # of what was there before: a file that was written, a runtime that proved it
    gc.freeze()
    try:
        yield
    finally:
        free_packed_factors()
        trim_heap()  # before the rest is looked through again
        gc.unfreeze()


def trim_heap(cycles: bool = True) -> None:
    """Hand freed pages to the system; within :func:`small_heap` milliseconds, so once per block and not more.

    Args:
        cycles: Objects that hold each other are looked for first: outside of :func:`small_heap` a tenth of a second.
    """
    if cycles:
        gc.collect()
    library = _c_library()
    if library is not None:
        library.malloc_trim(0)


def trim_after(nbytes: int) -> None:
    """Trim the heap after an export or a proof of a model of so many bytes: graphs and readers are full of cycles.

    After a small model it is not done: looking for cycles takes longer than the export itself.
    """
    if nbytes >= TRIMMED_BYTES:
        free_packed_factors()
        trim_heap()


def free_packed_factors() -> None:
    """What MKL packed factors of products into goes back; the next product of that shape takes it anew."""
    if (free := _freeing_in_mkl()) is not None:
        free()


def apart(call: Callable[[], T]) -> T:
    """What it returns, worked out by a thread of its own.

    A thread has a heap of its own: millions of small pieces that are freed again, of a long text cut into tokens for
    one, leave none of their pages pinned by what stays.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()


@cache
def _freeing_in_mkl() -> Any:
    """MKL's ``mkl_free_buffers`` by the name that torch's library has it under; None where torch is without MKL."""
    try:
        return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")).mkl_serv_free_buffers
    except (OSError, AttributeError):
        return None


@cache
def _c_library() -> Any:
    """glibc, or None where there is another."""
    try:
        library = ctypes.CDLL("libc.so.6")
        return library if hasattr(library, "malloc_trim") else None
    except OSError:
        return None
