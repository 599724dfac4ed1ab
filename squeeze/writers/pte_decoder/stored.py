"""The bytes of a delegate's constants, which ExecuTorch stores under names that end in their sha256."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn

from squeeze.models.language.language_model import LanguageModel
from squeeze.writers.pte_decoder.weights import Rounding, integer_module, nibbles, wide

Encoding = Literal["as it is", "bfloat16", "two to a byte"]


class ProgramWeights:
    """The model's weights by their names in the program, each read when it is asked for."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self._integers = lru_cache(maxsize=1)(self._integer_module)  # its integers and scales, one after the other

    def __getitem__(self, name: str) -> Tensor:
        owner, _, leaf = name.removeprefix("module.").rpartition(".")
        if f"{owner}.weight" in self.model.grid and leaf != "bias":
            return self._integers(owner).get_buffer(leaf)
        return wide(self.model.tensor(f"{owner}.{leaf}"))

    def _integer_module(self, owner: str) -> nn.Module:
        module, name = self.model.skeleton.module.get_submodule(owner), f"{owner}.weight"
        return integer_module(module, name, self.model.quantized(name), Rounding())


def by_digest(state: Mapping[str, Tensor]) -> dict[str, set[tuple[str, Encoding]]]:
    """Which weights, in which encoding, have bytes of that sha256."""
    found: dict[str, set[tuple[str, Encoding]]] = {}
    for name, value in state.items():
        for encoding in _possible(value):
            found.setdefault(digest(encoded(value, encoding)), set()).add((name, encoding))
    return found


def encoded(value: Tensor, encoding: Encoding) -> bytes:
    """As XNNPACK's serializer writes it."""
    if encoding == "two to a byte":
        return nibbles(value).numpy().tobytes()
    if encoding == "bfloat16":
        return value.bfloat16().contiguous().view(torch.uint16).numpy().tobytes()
    return value.detach().contiguous().numpy().tobytes()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _possible(value: Tensor) -> Iterator[Encoding]:
    yield "as it is"
    if value.dtype == torch.float32:
        yield "bfloat16"
    if value.dtype == torch.int8 and value.dim() == 2 and value.shape[1] % 2 == 0 and int(value.abs().max()) <= 8:
        yield "two to a byte"
