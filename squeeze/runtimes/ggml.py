"""A .gguf file as ggml, llama.cpp's own tensor library, dequantizes it: types that the gguf package lacks."""

from __future__ import annotations

import ctypes
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from squeeze.errors import MissingExtra, ModelError
from squeeze.formats.gguf_file import EVERY
from squeeze.formats.gguf_header import TensorInfo, read_header
from squeeze.formats.gguf_types import Q2_0, TensorType, type_named

KNOWS_TWO_BITS = "0.3.36"  # of llama-cpp-python


class Traits(ctypes.Structure):
    """The beginning of ``ggml_type_traits`` in ggml.h."""

    _fields_: ClassVar = [
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    ]


def _bindings() -> Any:
    try:
        from llama_cpp import llama_cpp
    except ImportError:
        raise MissingExtra("llama.cpp is not installed; pip install 'squeeze[llama-cpp]'") from None
    return llama_cpp


def _traits(kind: TensorType) -> Any:
    traits = _bindings()._lib.ggml_get_type_traits  # of ggml, which the library of llama.cpp links
    traits.restype = ctypes.POINTER(Traits)
    return traits(kind.number).contents


def knows(kind: TensorType) -> bool:
    """Whether the installed llama.cpp has a type.

    Raises:
        MissingExtra: llama.cpp is not installed.
    """
    if getattr(_bindings(), f"GGML_TYPE_{kind.name}", None) != kind.number:
        return False  # ggml does not look whether a number is beyond its types
    traits = _traits(kind)
    return (traits.blck_size, traits.type_size) == (kind.weights, kind.nbytes) and bool(traits.to_float)


def two_bits_fault() -> str | None:
    """Why Q2_0 cannot be read here; None where it can, or where llama.cpp is not installed, which is said elsewhere."""
    try:
        known = knows(Q2_0)
    except MissingExtra:
        return None
    return None if known else f"the installed llama.cpp has no Q2_0; llama-cpp-python {KNOWS_TWO_BITS} has"


class GgmlReader:
    """A .gguf file with ggml's own ``to_float`` of each type.

    Raises:
        ModelError: no .gguf file, or a file cut short.
        MissingExtra: llama.cpp or the gguf package is not installed.
    """

    name = "llama.cpp"

    def __init__(self, path: Path) -> None:
        _bindings()
        self.path, self.tensors = path, read_header(path).tensors

    def rows(self, name: str) -> int:
        """Length of the first axis of a tensor."""
        return self._info(name).shape[0]

    def dense(self, name: str, rows: slice = EVERY) -> Tensor:
        """A tensor, or rows of its first axis: float32, shaped as torch has it.

        Raises:
            ModelError: there is none of that name, or of a type that llama.cpp does not know.
        """
        info = self._info(name)
        kind, (first, *inner) = type_named(info.kind), info.shape
        if not knows(kind):
            raise ModelError(f"{self.path}: '{name}' is {kind.name}, which the installed llama.cpp does not know")
        raw = np.ascontiguousarray(info.raw(self.path).reshape(first, -1)[rows])
        values = torch.empty(len(raw), prod(inner))
        _traits(kind).to_float(raw.ctypes.data, values.data_ptr(), values.numel())
        return values.reshape(-1, *inner)

    def _info(self, name: str) -> TensorInfo:
        if name not in self.tensors:
            raise ModelError(f"{self.path}: holds no tensor '{name}'")
        return self.tensors[name]
