"""Which operators ONNX Runtime will really run on integers, read from the graph that it builds for itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from squeeze.formats.onnx_file import parse_onnx
from squeeze.formats.onnx_graph import INTEGER_OPS, WEIGHTED_OPS, node_constants
from squeeze.formats.onnx_layer import LAYER_OPS
from squeeze.formats.onnx_scheme import COMBINING_OPS
from squeeze.models.onnx_model import OnnxModel
from squeeze.work import temporary_folder

RECURRENT_OPS = ("GRU", "LSTM", "RNN")
INTEGER_KERNELS = {
    "QLinearConv": "Conv",
    "ConvInteger": "Conv",
    "QGemm": "Gemm",
    "QLinearMatMul": "MatMul",
    "MatMulInteger": "MatMul",
    "MatMulIntegerToFloat": "MatMul",
    "DynamicQuantizeMatMul": "MatMul",
    "QLinearAdd": "Add",
    "QLinearMul": "Mul",
    "QLinearConcat": "Concat",
    "QLinearAveragePool": "AveragePool",
    "QLinearGlobalAveragePool": "GlobalAveragePool",
}


@dataclass(frozen=True)
class Coverage:
    """Per kind of operator: how many run on integers, of how many; and why the others do not."""

    counts: dict[str, tuple[int, int]]
    reasons: dict[str, str]

    def facts(self) -> dict[str, object]:
        """For the report: ``{"coverage": {"Conv": [21, 21]}, "uncovered": {"fc": "left out"}}``."""
        counts = {kind: list(pair) for kind, pair in self.counts.items()}
        return {"coverage": counts, **({"uncovered": self.reasons} if self.reasons else {})}


def measure_coverage(before: ir.Graph, after: OnnxModel, reasons: dict[str, str], arm: bool = False) -> Coverage:
    """Count the operators of the float graph and those that the runtime runs on integers; ``arm``: on ARM."""
    operators = Counter(node.op_type for node in before if node.op_type in {*LAYER_OPS, *COMBINING_OPS})
    kernels = Counter(INTEGER_KERNELS.get(op, "") for op in runtime_operators(after, arm))
    # without calibration, a Gemm runs as a MatMul and an Add
    kernels["Gemm"] += max(0, kernels["MatMul"] - operators["MatMul"])
    counts = {kind: (min(kernels[kind], total), total) for kind, total in sorted(operators.items())}
    return Coverage(counts, reasons | untouched(before))


def untouched(graph: ir.Graph) -> dict[str, str]:
    """Operators whose weights no int8 pass takes, each with its share of the bytes of all weights."""
    sizes = {
        node.name or node.op_type: sum(item.tensor.nbytes for item in node_constants(node) if item.is_weight)
        for node in graph
        if node.op_type in WEIGHTED_OPS - INTEGER_OPS
    }
    total = sum(sizes.values())
    stay = {node.name or node.op_type: node.op_type for node in graph if node.op_type in RECURRENT_OPS}
    return {
        name: f"the weights of {kind} stay float: {100 * sizes[name] / total:.0f} % of all bytes of weights"
        for name, kind in stay.items()
        if sizes.get(name)
    }


def runtime_operators(model: OnnxModel, arm: bool = False) -> list[str]:
    """Operators of the graph as ONNX Runtime's optimizer leaves it, in order.

    Integer kernels for signed activations exist everywhere; ONNX Runtime uses them by default on ARM only.
    """
    import onnxruntime as ort

    with temporary_folder("graph") as folder:
        options = ort.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        if arm:
            options.add_session_config_entry("session.qdqisint8allowed", "1")
        options.optimized_model_filepath = str(folder / "optimized.onnx")
        ort.InferenceSession(model.data, options, providers=["CPUExecutionProvider"])
        optimized = parse_onnx(Path(options.optimized_model_filepath).read_bytes(), model.source)
    return [node.op_type for node in optimized.graph]
