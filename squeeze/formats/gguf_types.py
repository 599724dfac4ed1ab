"""Types of a .gguf file's tensors: those that the gguf package knows, and what llama.cpp has beyond them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from squeeze.errors import MissingExtra
from squeeze.formats.gguf_blocks import BYTES, TWO_BITS, WIDE_BLOCK, from_blocks


def gguf() -> Any:
    """The package.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import gguf as package
    except ImportError:
        raise MissingExtra("a .gguf file needs the package gguf; pip install 'squeeze[gguf]'") from None
    return package


@dataclass(frozen=True)
class TensorType:
    """How numbers lie in a file.

    Args:
        number: In the file.
        weights: Of one block; 1 for floats.
        nbytes: Of one block.
    """

    name: str
    number: int
    weights: int
    nbytes: int


# gguf 0.19 lacks it: https://github.com/ggml-org/llama.cpp/pull/24448
Q2_0 = TensorType(TWO_BITS, 42, WIDE_BLOCK, BYTES[TWO_BITS])
BEYOND_PACKAGE = {Q2_0.name: Q2_0}


def type_named(name: str) -> TensorType:
    """The type of that name.

    Raises:
        KeyError: there is none.
    """
    if name in BEYOND_PACKAGE:
        return BEYOND_PACKAGE[name]
    package = gguf()
    kind = package.GGMLQuantizationType[name]
    return TensorType(name, int(kind), *package.GGML_QUANT_SIZES[kind])


def type_numbered(number: int) -> TensorType:
    """The type with that number in a file.

    Raises:
        ValueError: there is none.
    """
    for kind in BEYOND_PACKAGE.values():
        if kind.number == number:
            return kind
    return type_named(gguf().GGMLQuantizationType(number).name)


def dequantize(raw: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    """float32 ``[rows, columns]`` of uint8 ``[rows, bytes]``, by the gguf package's rule, or ours of what it lacks.

    Raises:
        NotImplementedError: the package knows the type and cannot dequantize it.
    """
    if name in BEYOND_PACKAGE:
        return from_blocks(torch.from_numpy(np.ascontiguousarray(raw)), name).dequantize().numpy()
    package = gguf()
    values = package.quants.dequantize(raw, package.GGMLQuantizationType[name])
    return np.ascontiguousarray(values, dtype=np.float32)
