"""Dynamic int8 for ONNX: integer weights; activations are measured and rounded each time the model runs.

No calibration data are needed but for ``smooth``, and each run pays for measuring: good for matrices (transformers,
classifiers), bad for convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import onnx_ir as ir

from squeeze.algorithms.affine import quantize_symmetric, symmetric_scale
from squeeze.errors import EffectError, ModelError
from squeeze.formats.grid_kind import GridKind
from squeeze.formats.onnx_dynamic import write_dynamic
from squeeze.formats.onnx_graph import constant
from squeeze.formats.onnx_layer import LAYER_OPS, weight_matrix, why_not
from squeeze.formats.onnx_simplify import drop_unused, simplify
from squeeze.formats.onnx_table import table_matrix, why_no_table, write_table
from squeeze.models.base import FULLY, Model
from squeeze.models.onnx_model import OnnxModel
from squeeze.models.options import Unused
from squeeze.passes.base import Context, Pass, Preview
from squeeze.passes.quantize.int8_sizes import DYNAMIC_BYTES, saved_bytes
from squeeze.passes.quantize.onnx_coverage import measure_coverage
from squeeze.passes.quantize.onnx_smooth import smooth_inputs
from squeeze.passes.quantize.selection import select, selection_faults

KINDS = dict.fromkeys(("Gemm", "MatMul", "Linear"), "matrices") | dict.fromkeys(
    ("Conv", "Conv1d", "Conv2d"), "convolutions"
)
TABLES = {"Gather", "Embedding"}


class QuantizeDynamic(Pass[OnnxModel, OnnxModel]):
    """Store weights as int8 and round activations at run time.

    Convolutions are left alone unless asked for: their integer kernel takes one scale per weight tensor, which destroys
    depthwise layers, and ran at a tenth of float's speed.
    """

    leaves: ClassVar[frozenset[str]] = frozenset({"quantized", FULLY})
    refuses: ClassVar[frozenset[str]] = frozenset({"quantized", "float16"})
    promises: ClassVar[frozenset[str]] = frozenset({"fewer_bytes", "weights_changed"})

    layers: Literal["matrices", "all"] = "matrices"
    """matrices: fully connected layers; all: convolutions too, which often makes them slower."""
    per_channel: bool = True
    """One scale per output channel of a matrix; convolutions always have one scale."""
    smooth: bool = False
    """First divide outlying input channels down, as measured on calibration data; encoders need it."""
    embeddings: bool = True
    """Embedding tables too, one scale per row: half of a small encoder's bytes."""
    include: tuple[str, ...] = ("*",)
    """Layers to change, by name."""
    exclude: tuple[str, ...] = ()
    """Layers to leave as they are."""

    def run(self, model: OnnxModel, context: Context) -> OnnxModel:
        """Rewrite the chosen layers, and look at what the runtime makes of it."""
        graph_model = model.copy_ir()
        simplify(graph_model)
        nodes, reasons = self._chosen(graph_model.graph)
        tables, float_tables = self._tables(graph_model.graph)
        if not nodes and not tables:
            raise EffectError(f"{self.name}: no layer can be quantized; layers: all takes convolutions too")
        if self.smooth:
            context.facts["smooth"] = smooth_inputs(model, graph_model.graph, nodes, context)
        for table in tables:
            write_table(graph_model.graph, table, quantize_symmetric(table_matrix(table), 8))
        for node in nodes:
            matrix = weight_matrix(node)
            whole = node.op_type == "Conv" or not self.per_channel
            scale = symmetric_scale(matrix.reshape(1, -1), 8) if whole else None
            write_dynamic(graph_model.graph, node, quantize_symmetric(matrix, 8, scale=scale))
        drop_unused(graph_model)
        quantized = model.with_graph(graph_model)
        coverage = measure_coverage(model.ir.graph, quantized, reasons | float_tables)
        context.facts.update(coverage.facts())
        if tables or float_tables:
            context.facts["embeddings"] = {"int8": [str(table.name) for table in tables]}
        if sum(count for count, _ in coverage.counts.values()) < len(nodes):
            raise EffectError(f"{self.name}: ONNX Runtime runs fewer than {len(nodes)} layers on integers")
        return quantized

    def needed(self) -> frozenset[str]:
        return frozenset({"calibration"}) if self.smooth else frozenset()

    def faults(self, model: Model) -> Iterator[str]:
        names = self._names(model)
        if not names:
            yield "the model has no layer of this kind; layers: all takes convolutions too"
        else:
            yield from selection_faults(names, self.include, self.exclude)

    def warnings(self, model: Model) -> Iterator[str]:
        convolutions = [layer for layer in model.layers() if KINDS.get(layer.kind) == "convolutions"]
        if self.layers == "all" and convolutions:
            slower = "which are several times slower that way than in float"
            yield f"layers: all takes {len(convolutions)} convolutions, {slower}; quantize_static would be faster"

    def unused(self, model: Model, grid: Mapping[str, GridKind] | None) -> Iterator[Unused]:
        kinds = {layer.kind for layer in model.layers()}
        groups = {KINDS[kind] for kind in kinds & KINDS.keys()}
        if "matrices" not in groups:
            yield Unused("per_channel", "is of matrices, and the model has none: leave it out")
            yield Unused("smooth", "is of matrices, and the model has none: leave it out")
        if "convolutions" not in groups:
            yield Unused("layers", "tells convolutions from matrices, and the model has none: leave it out")
        if not kinds & TABLES:
            yield Unused("embeddings", "is of embedding tables, and the model has none: leave it out")

    def preview(self, model: Model, before: Preview) -> Preview:
        chosen = set(select(self._names(model), self.include, self.exclude))
        saved = sum(saved_bytes(layer, DYNAMIC_BYTES) for layer in model.layers() if layer.name in chosen)
        return Preview(tuple(sorted(chosen)), before.parameters, before.nbytes - saved, before.macs, exact=False)

    def _names(self, model: Model) -> list[str]:
        return [layer.name for layer in model.layers() if layer.kind in self._kinds()]

    def _kinds(self) -> set[str]:
        kinds = {kind for kind, group in KINDS.items() if self.layers in (group, "all")}
        return kinds | (TABLES if self.embeddings else set())

    def _tables(self, graph: ir.Graph) -> tuple[list[ir.Node], dict[str, str]]:
        """Embeddings to rewrite, and why the others stay float."""
        tables = [node for node in graph if node.op_type == "Gather" and constant(node.inputs[0]) is not None]
        tables = [node for node in tables if len(constant(node.inputs[0]).shape) == 2]  # type: ignore[union-attr]
        names = set(select([str(node.name) for node in tables], self.include, self.exclude)) if self.embeddings else ()
        why = {str(n.name): why_no_table(n) if str(n.name) in names else "left out" for n in tables}
        return [n for n in tables if why[str(n.name)] is None], {name: reason for name, reason in why.items() if reason}

    def _chosen(self, graph: ir.Graph) -> tuple[list[ir.Node], dict[str, str]]:
        names = [str(node.name) for node in graph if node.op_type in self._kinds() and _holds_weight(node)]
        for wrong in selection_faults(names, self.include, self.exclude) if names else ():
            raise ModelError(f"{self.name}: {wrong}")
        selected, nodes, reasons = set(select(names, self.include, self.exclude)), [], {}
        for node in graph:
            if node.op_type in LAYER_OPS:
                reason = why_not(node) if str(node.name) in selected or not _holds_weight(node) else "left out"
                if reason is None:
                    nodes.append(node)
                else:
                    reasons[str(node.name)] = reason
        return nodes, reasons


def _holds_weight(node: ir.Node) -> bool:
    """Products of two activations, as attention has them, are no layers."""
    return any(constant(value) is not None for value in node.inputs[:2])
