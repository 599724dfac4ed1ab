"""A language model as ``model.onnx``: traced, its weights streamed beside it, its logits compared with torch's."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import onnx_ir as ir

from squeeze.formats.onnx_side import SideFile
from squeeze.models.facts import Facts
from squeeze.models.language.dense import copy_side_files
from squeeze.models.language.language_model import LanguageModel
from squeeze.runtimes.onnx_decoder import CONTEXT, FILE_NAME, OnnxDecoder
from squeeze.writers.decoder.compare import differences, reference, require_equal, with_float_activations
from squeeze.writers.decoder.lowering import Lowering, WeightEncoding
from squeeze.writers.decoder.trace import trace
from squeeze.writers.proof import proven
from squeeze.writers.proof_onnx import prove_onnx

SIDE = f"{FILE_NAME}.data"
IR_VERSION = 10
TOLERANCE = 1e-3  # relative to the largest logit, on another host
COPIES = 3  # peak memory of a running model, in copies of the stored weights


@dataclass(frozen=True)
class Options:
    """How a decoder is written.

    Args:
        encoding: How quantized weights are stored: MatMulNBits, or ONNX's own DequantizeLinear.
        accuracy_level: Of MatMulNBits: 4 rounds activations to int8 within each product, 0 leaves them float32.
        context: The most tokens of a text; None: what the config says.
    """

    encoding: WeightEncoding = "nbits"
    accuracy_level: int = 4
    context: int | None = None


class Surroundings(Protocol):
    """What a run lends the writer, and where it notes what it measured."""

    threads: int
    memory_bytes: int | None
    measured: dict[str, Any]
    facts: dict[str, Any]


@dataclass
class Alone:
    """Surroundings outside a run."""

    threads: int = 1
    memory_bytes: int | None = None
    measured: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def export_decoder(
    model: LanguageModel, folder: Path, options: Options | None = None, context: Surroundings | None = None
) -> OnnxDecoder:
    """Write the decoder into ``folder``, with its tokenizer; it is compared with torch before it is given.

    Args:
        context: Threads and memory, and who is told how far logits are off and that the weights are the grid's. A
            model that would not run within the memory is compared by its first blocks.

    Raises:
        ModelError: a structure or a grid with no graph form.
        EffectError: logits are not the torch model's, or a reader sees other weights.
    """
    options, context = options or Options(), context or Alone()
    write(model, folder, options)
    copy_side_files(model.folder, folder)
    fitting = blocks_that_fit(model, context.memory_bytes)
    if fitting == model.blocks:
        error = compare(model, folder, context.threads)
    else:
        with TemporaryDirectory(dir=folder.parent, prefix=".part-") as part:
            write(model, Path(part), options, fitting)
            error = compare(model, Path(part), context.threads, fitting)
    context.measured["export_error"] = error
    if model.grid:
        context.facts["proof"] = proven(prove_onnx(model, folder / FILE_NAME))
    return OnnxDecoder(folder, Facts(model.parameters(), TOLERANCE, model.macs()))


def write(model: LanguageModel, folder: Path, options: Options, blocks: int | None = None) -> None:
    """The graph, the weights beside it, and how long texts may be; of the first ``blocks`` blocks alone if told."""
    traced = trace(model, options.context, blocks)
    folder.mkdir(parents=True, exist_ok=True)
    with SideFile(folder / SIDE) as side:
        Lowering(model, traced.graph, side, options.encoding, options.accuracy_level).run()
    model_file = ir.Model(traced.graph, ir_version=IR_VERSION, producer_name="squeeze")
    if traced.positions is not None:
        model_file.metadata_props[CONTEXT] = str(traced.positions)
    (folder / FILE_NAME).write_bytes(ir.to_proto(model_file).SerializeToString(deterministic=True))


def blocks_that_fit(model: LanguageModel, memory_bytes: int | None) -> int:
    """How many blocks ONNX Runtime can run within the memory: it holds weights twice while it lays them out."""
    if memory_bytes is None or COPIES * model.nbytes() <= memory_bytes:
        return model.blocks
    inside = sum(layer.nbytes for layer in model.layers() if layer.name.startswith(f"{model.skeleton.layers_name}."))
    room = memory_bytes / COPIES - (model.nbytes() - inside)
    return max(1, min(model.blocks, int(room * model.blocks / inside)))


def compare(model: LanguageModel, folder: Path, threads: int, blocks: int | None = None) -> dict[str, float]:
    """How far the logits of the file are off; raises ``EffectError`` where the graph computes something else."""
    tokens, expected = reference(model, blocks)
    exact, own = folder / "float_activations.onnx", folder / FILE_NAME
    try:
        rounds = with_float_activations(own, exact)
        error = differences(exact if rounds else own, threads, tokens, expected, exact=True)
    finally:
        exact.unlink(missing_ok=True)
    require_equal(error)
    as_run = differences(own, threads, tokens, expected).prefill if model.grid else error.prefill
    return {"prefill": error.prefill, "decode": error.decode, "as_run": as_run}
