"""The weight of an ONNX node as the matrix ``[out, in]`` that the algorithms know, and back.

Conv keeps ``[out, in / group, kh, kw]``; Gemm ``[out, in]`` or its transpose; MatMul ``[in, out]``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from squeeze.errors import ModelError
from squeeze.formats.onnx_graph import constant, input_at, producer

Array = np.ndarray[Any, Any]
LAYER_OPS = ("Conv", "Gemm", "MatMul")


def why_not(node: ir.Node) -> str | None:
    """Why a node of ``LAYER_OPS`` has no integer kernel, or None where it has one."""
    weight = constant(node.inputs[1])
    if weight is None:
        return "both operands are computed at run time"
    if weight.dtype != ir.DataType.FLOAT:
        return f"its weights are {weight.dtype.name.lower()}, not float32"
    if node.op_type == "MatMul" and len(weight.shape) != 2:
        return "its weight is not a matrix"
    if node.op_type == "Gemm" and (_number(node, "transA", 0) or _number(node, "alpha", 1) != 1):
        return "a Gemm with transA or alpha has no integer kernel"
    if node.op_type == "Gemm" and _number(node, "beta", 1) != 1:
        return "a Gemm with beta has no integer kernel"
    if (bias := input_at(node, 2)) is not None and constant(bias) is None:
        return "its bias is computed at run time"
    return None


def output_axis(node: ir.Node) -> int:
    """The axis of the stored weight that counts output channels."""
    return 1 if _transposed(node) else 0


def weight_array(node: ir.Node) -> Array:
    """The weight as stored."""
    tensor = constant(node.inputs[1])
    assert tensor is not None
    return tensor.numpy()


def weight_matrix(node: ir.Node) -> Tensor:
    """float32 ``[out, in]``."""
    stored = weight_array(node)
    matrix = stored.T if _transposed(node) else stored.reshape(stored.shape[0], -1)
    return torch.from_numpy(np.array(matrix, dtype=np.float32, order="C"))


def stored_form(node: ir.Node, matrix: Tensor) -> Array:
    """A matrix ``[out, in]`` laid out as the node's stored weight."""
    array = matrix.numpy().T if _transposed(node) else matrix.numpy().reshape(weight_array(node).shape)
    return np.ascontiguousarray(array)


def bias_vector(node: ir.Node) -> Tensor | None:
    """float32 ``[out]``, or None for a layer without."""
    tensor = constant(input_at(node, 2))
    if tensor is None:
        return None
    return torch.from_numpy(np.array(tensor.numpy(), dtype=np.float32)).reshape(-1)


def real_bias(node: ir.Node) -> Tensor | None:
    """As ``bias_vector``, integers as what they stand for; raises ``ModelError`` where it is computed at run time."""
    maker = producer(input_at(node, 2))
    if maker is None or maker.op_type != "DequantizeLinear":
        return bias_vector(node)
    q, scale = (constant(part) for part in maker.inputs[:2])
    if q is None or scale is None:
        raise ModelError(f"{node.name}: its bias is computed at run time; a stored one would do")
    return torch.from_numpy(q.numpy().astype(np.float32) * scale.numpy().astype(np.float32))


def can_hold_bias(node: ir.Node) -> bool:
    """MatMul adds none."""
    return node.op_type != "MatMul"


def group_count(node: ir.Node) -> int:
    return int(_number(node, "group", 1))


def _transposed(node: ir.Node) -> bool:
    return node.op_type == "MatMul" or (node.op_type == "Gemm" and not _number(node, "transB", 0))


def _number(node: ir.Node, name: str, default: float) -> float:
    return float(node.attributes[name].value) if name in node.attributes else default
