"""Does ONNX Runtime round activations in a graph's products? The file is read without its weights."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

INT8_ACTIVATIONS = 4  # accuracy_level of MatMulNBits; also what the runtime takes by itself


def rounds_activations(file: Path) -> bool:
    """Whether any product of blocks of integers takes activations rounded to int8."""
    return any(_rounds(node) for node in ir.load(file).graph.all_nodes())


def _rounds(node: ir.Node) -> bool:
    if node.op_type == "MatMulNBits":
        level = node.attributes.get("accuracy_level")
        return level is not None and level.as_int() == INT8_ACTIVATIONS
    return node.op_type == "DequantizeLinear" and "block_size" in node.attributes
