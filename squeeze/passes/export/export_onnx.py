"""Torch to ONNX: the same logits, one file, equal bytes for equal models.

Module names become node names, so selectors and reports speak of the same layers before and after.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from shutil import rmtree
from typing import Annotated, Any, Literal

import onnx_ir as ir
import torch
from annotated_types import Ge, Le
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from pydantic import PositiveInt
from torch import Tensor, nn

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import EffectError
from squeeze.formats import onnx_grid, onnx_nbits
from squeeze.formats.grid_kind import GridKind
from squeeze.formats.onnx_graph import WEIGHTED_OPS
from squeeze.formats.onnx_nbits import stored_bytes
from squeeze.formats.onnx_simplify import simplify
from squeeze.models.base import Batch, InputSpec, Model
from squeeze.models.language.footprint import FLOAT, PROCESS_BYTES, RUN_COPIES
from squeeze.models.language.language_model import LanguageModel, in_shards
from squeeze.models.language.memory import trim_after
from squeeze.models.onnx_model import OnnxModel
from squeeze.models.options import Unused
from squeeze.models.torch_call import forward
from squeeze.models.torch_model import TorchModel, in_memory
from squeeze.models.torch_stage import TorchStage
from squeeze.passes.base import Context, Pass, Preview
from squeeze.passes.effort import Amount, Work
from squeeze.passes.export.torch_exporter import export_graph
from squeeze.runtimes.onnx_decoder import OnnxDecoder
from squeeze.writers.decoder.lowering import WeightEncoding
from squeeze.writers.onnx import BlockedWriter, DecoderWriter, NBitsWriter
from squeeze.writers.onnx_grid import prove_grid, store_weights

DECODER = "decoder"  # the folder, in the journal, that a language model is written into
TRACED_BLOCK = 6_000  # operators on a few numbers that tracing a block takes as long as
WRITTEN_STEPS = 28  # times that a weight is read or written: dequantized, packed, hashed, proven, run
PREFIX = "module."  # where the wrapper keeps the user's module
TOLERANCE = 1e-3  # relative to the largest logit: summation order explains less, a wrong export differs more


class ExportOnnx(Pass[TorchStage, OnnxModel | OnnxDecoder]):
    """Write the model as an ONNX graph with a free batch dimension, and a free length where tokens go in.

    Its logits are compared with torch's.

    BatchNormalization is folded into the convolutions, and nothing of the machine it was made on is left in the file.
    A language model becomes one graph for reading a prompt and writing on, with keys and values going in and out; its
    weights are streamed beside it, quantized ones as they are, and read back bit for bit.
    """

    opset: Annotated[int, Ge(18), Le(23)] = 20
    """ONNX operator set of the file; a decoder's graph is always at 21."""
    weights: WeightEncoding = "nbits"
    """nbits: MatMulNBits, an operator of ONNX Runtime; qdq: the standard's DequantizeLinear, which
    ONNX Runtime fuses when it loads."""
    accuracy_level: Literal[0, 4] = 4
    """4: quantized products take int8 activations; 0: float32 activations, exact and far slower."""
    length: PositiveInt | None = None
    """Most tokens of a text: the length of position tables; null: as the config says."""

    def run(self, model: TorchStage, context: Context) -> OnnxModel | OnnxDecoder:
        return self._decoder(in_shards(model), context) if model.blocks else self._rows(in_memory(model), context)

    def _rows(self, model: TorchModel, context: Context) -> OnnxModel:
        """A model that answers a batch in one call."""
        idle = _without_effect(model)
        grid = {name: weight for name, weight in model.grid.items() if name not in idle}
        exported = OnnxModel(self._graph(model, grid), "exported model", model.task)
        exported.threads = context.threads
        if grid:
            context.facts["proof"] = prove_grid(grid, exported)
        if idle:
            context.facts["without_effect"] = idle
        context.measured["export_error"] = max(_error(model, exported, examples) for examples in (1, 3))
        return exported

    def faults(self, model: TorchStage) -> Iterator[str]:
        """A decoder's code is run on stand-ins for tensors: what has no graph form shows before any weight is read."""
        if model.blocks:
            yield from self.writer().faults(in_shards(model))

    def unused(self, model: Model, grid: Mapping[str, GridKind] | None) -> Iterator[Unused]:
        if not model.blocks:
            reason = "is of language models, which this is not: leave it out"
            yield from (Unused(option, reason) for option in ("weights", "accuracy_level", "length"))
            return
        yield Unused("opset", "is of classifiers and encoders; a language model's graph is always at 21: leave it out")
        if grid is not None and not grid:
            reason = "is of quantized weights, and none is by then; a pass such as gptq or rtn would make some"
            yield from (Unused(option, reason) for option in ("weights", "accuracy_level"))
        elif self.weights != "nbits":
            yield Unused("accuracy_level", f"goes with weights: nbits; weights is {self.weights}")

    def preview(self, model: Any, before: Preview) -> Preview:
        added = self._added_bytes(in_shards(model), before) if model.blocks else 0
        return replace(before, touched=(), exact=False, nbytes=before.nbytes + added)

    def memory_bytes(self, model: Any, tokens: int, limit: int | None, nbytes: int | None = None) -> int | None:
        """A language model's file is run once; with a limit, of a large one the first blocks alone."""
        if not model.blocks:
            return None
        nbytes_of_run = PROCESS_BYTES + RUN_COPIES * (nbytes or model.nbytes())
        return nbytes_of_run if limit is None else min(nbytes_of_run, max(limit, PROCESS_BYTES))

    def work(self, model: Any, data: Amount | None) -> Work | None:
        """Of a language model: its graph is traced, weights are written and read back, a short text runs in both."""
        if not model.blocks:
            return None
        return Work(calls=TRACED_BLOCK * model.blocks, alone=WRITTEN_STEPS * model.parameters())

    def _added_bytes(self, model: LanguageModel, before: Preview) -> int:
        """What a decoder's file holds beyond the model: tables of positions, whole blocks, scales of float32."""
        config = model.skeleton.config.get_text_config()
        rotated = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        tables = FLOAT * rotated * (self.length or model.context or 0)
        kinds = before.grid.values() if self.weights == "nbits" else ()
        return tables + sum(stored_bytes(kind) - kind.nbytes for kind in kinds if onnx_nbits.holds(kind) is None)

    def grid_faults(self, grid: Mapping[str, GridKind], model: Model | None = None) -> Iterator[str]:
        holds = self._torch_holds if model is not None and not model.blocks else self.writer().holds
        for name, kind in grid.items():
            if reason := holds(kind):
                yield f"{self.name}: {name}: {reason}"
                return  # one message is enough

    def writer(self) -> DecoderWriter:
        return (NBitsWriter if self.weights == "nbits" else BlockedWriter)(self.accuracy_level, self.length)

    def _torch_holds(self, kind: GridKind) -> str | None:
        """Why the file of a classifier or encoder cannot hold such a grid."""
        least = onnx_grid.least_opset(kind)
        if "opset" in self.model_fields_set and self.opset < least:
            return f"opset {self.opset} has neither int4 nor groups; {least} would do"
        return onnx_grid.holds(kind)

    def _decoder(self, model: LanguageModel, context: Context) -> OnnxDecoder:
        """Written afresh: whatever a killed run left is no part of it."""
        folder = context.disk_folder() / DECODER
        rmtree(folder, ignore_errors=True)
        exported = self.writer().export(model, folder, context)
        trim_after(model.nbytes())
        return exported

    def _graph(self, model: TorchModel, grid: Mapping[str, QuantizedTensor]) -> ir.Model:
        needed = [onnx_grid.least_opset(GridKind.of(grid)) for grid in model.grid.values()]  # integers may need more
        graph_model = export_graph(_Logits(model.module, model.inputs), model.inputs, max(self.opset, *needed, 0))
        simplify(graph_model)
        _strip(graph_model)
        _rename(graph_model.graph)
        store_weights(graph_model.graph, grid)
        return graph_model


class _Logits(nn.Module):
    """The user's module with plain tensors in and out."""

    def __init__(self, module: nn.Module, inputs: tuple[InputSpec, ...]) -> None:
        super().__init__()
        self.module = module
        self.names = [spec.name for spec in inputs]

    def forward(self, *tensors: Tensor) -> Tensor:
        return forward(self.module, dict(zip(self.names, tensors, strict=True)))


def _without_effect(model: TorchModel) -> list[str]:
    """Quantized weights that no output depends on, such as a pooler whose result nobody reads: no file holds them."""
    if not model.grid:
        return []
    weights = [model.module.get_parameter(name).requires_grad_() for name in model.grid]
    with torch.enable_grad():
        outputs = model.forward(model.example(1).inputs)
        gradients = torch.autograd.grad(outputs.sum(), weights, allow_unused=True)
    return [name for name, gradient in zip(model.grid, gradients, strict=True) if gradient is None]


def _error(model: TorchModel, exported: OnnxModel, examples: int) -> float:
    """The largest difference of a logit on noise, relative to the largest; ``EffectError`` above :data:`TOLERANCE`."""
    noise = model.example(examples, seed=examples)
    expected, actual = model.predict(noise), exported.predict_exactly(Batch(noise.inputs))
    if expected.shape != actual.shape:
        raise EffectError(f"export_onnx: logits {list(actual.shape)} in ONNX, {list(expected.shape)} in torch")
    error = float((expected - actual).abs().max() / expected.abs().max().clamp_min(1e-6))
    if not error <= TOLERANCE:
        raise EffectError(f"export_onnx: logits differ by {error:.1e} of the largest; at most {TOLERANCE:g} would do")
    return error


def _strip(graph_model: ir.Model) -> None:
    """Stack traces, module paths and doc strings: they hold this machine's file names."""
    ClearMetadataAndDocStringPass()(graph_model)
    graph_model.doc_string, graph_model.graph.name = None, "squeeze"
    graph_model.metadata_props.clear()
    for graph in graph_model.graphs():
        values = (*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs))
        for value in values:
            value.doc_string = None
            value.metadata_props.clear()


def _rename(graph: ir.Graph) -> None:
    """Initializers as in torch's state dict, nodes as the modules that own their weights."""
    for value in list(graph.initializers.values()):
        plain = (value.name or "").removeprefix(PREFIX).replace(".weight_bias", ".bias")
        if plain not in graph.initializers:
            value.name = plain
            assert value.const_value is not None
            value.const_value.name = plain
    names: set[str] = set()
    for node in graph:
        weight = node.inputs[0 if node.op_type == "Gather" else 1] if len(node.inputs) > 1 else None
        if node.op_type == "MatMul" and weight is not None and weight.is_initializer():
            _name_by_bias(graph, node, weight)
        if node.op_type in WEIGHTED_OPS and weight is not None and weight.is_initializer():
            node.name = (weight.name or "").removesuffix(".weight") or node.name
        stem, count = node.name or node.op_type, 1
        while node.name in names or not node.name:
            node.name, count = f"{stem}_{count}", count + 1
        names.add(node.name)


def _name_by_bias(graph: ir.Graph, node: ir.Node, weight: ir.Value) -> None:
    """A linear's weight is stored transposed and loses its name; the bias that is added behind it has kept its own."""
    readers = [use.node for use in node.outputs[0].uses()]
    added = readers[0].inputs if len(readers) == 1 and readers[0].op_type == "Add" else ()
    name = next((str(v.name) for v in added if v is not None and v.is_initializer()), "")
    plain = f"{name.removesuffix('.bias')}.weight"
    if name.endswith(".bias") and plain not in graph.initializers and weight.const_value is not None:
        weight.name = weight.const_value.name = plain
