"""ONNX: a graph as it is, and a decoder with its quantized weights in one of two encodings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from squeeze.errors import ModelError
from squeeze.formats import onnx_blocked, onnx_nbits
from squeeze.formats.grid_kind import GridKind
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.onnx_model import OnnxModel
from squeeze.runtimes.onnx_decoder import OnnxDecoder
from squeeze.writers.base import Writer
from squeeze.writers.decoder.export import Options, Surroundings, export_decoder
from squeeze.writers.decoder.lowering import WeightEncoding
from squeeze.writers.decoder.trace import trace
from squeeze.writers.proof import Equality
from squeeze.writers.proof_onnx import prove_onnx


class OnnxWriter(Writer[OnnxModel | OnnxDecoder]):
    """The very bytes that were scored."""

    name = "onnx"
    timed_as = "onnx"

    def write(self, model: OnnxModel | OnnxDecoder, folder: Path) -> Path:
        return model.write_file(folder)


@dataclass(frozen=True)
class DecoderWriter(Writer[LanguageModel]):
    """A language model as one graph, keys and values going in and out.

    Args:
        accuracy_level, length: As of :class:`Options`, where the latter is ``context``.
    """

    encoding: ClassVar[WeightEncoding]
    accuracy_level: int = 4
    length: int | None = None

    def faults(self, model: LanguageModel) -> Iterator[str]:
        """Its code is run on stand-ins for tensors: what has no graph form shows before any weight is read."""
        try:
            trace(model, self.length)
        except ModelError as error:
            yield str(error)

    def write(self, model: LanguageModel, folder: Path) -> Path:
        return self.export(model, folder).main

    def export(self, model: LanguageModel, folder: Path, context: Surroundings | None = None) -> OnnxDecoder:
        """As :func:`export_decoder`: write, compare with torch, prove."""
        return export_decoder(model, folder, Options(self.encoding, self.accuracy_level, self.length), context)

    def prove(self, model: LanguageModel, file: Path) -> Iterator[Equality]:
        return prove_onnx(model, file) if model.grid else iter(())


class NBitsWriter(DecoderWriter):
    """Quantized weights as ONNX Runtime's own operator MatMulNBits."""

    name = "onnx-nbits"
    encoding = "nbits"

    def holds(self, kind: GridKind) -> str | None:
        return onnx_nbits.holds(kind)


class BlockedWriter(DecoderWriter):
    """Quantized weights as the standard's DequantizeLinear in blocks, before a MatMul."""

    name = "onnx-qdq"
    encoding = "qdq"

    def holds(self, kind: GridKind) -> str | None:
        return onnx_blocked.holds(kind)
