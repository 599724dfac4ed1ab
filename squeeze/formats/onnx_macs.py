"""Multiply-accumulates of an ONNX graph for one example, operator by operator, from inferred shapes.

Convolutions, matrix products (batched and integer ones too), Einsum, attention and recurrent layers, as
``squeeze.models.torch_macs`` counts them. What is not known makes the count None, never a partial sum: a shape that
cannot be worked out without running the graph, a product inside a loop, an operator of another domain without a rule.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from math import prod

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from squeeze.formats.onnx_attributes import example_sizes
from squeeze.formats.onnx_graph import STANDARD, fed_inputs

Shape = tuple[int, ...]
PLAIN = {  # operators of ONNX Runtime's own domain without products
    *("BiasGelu", "FastGelu", "Gelu", "QuickGelu", "FusedClip", "Trilu", "NhwcMaxPool", "MaxpoolWithMask"),
    *("LayerNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization", "GroupNorm", "SkipGroupNorm"),
    *("SkipSimplifiedLayerNormalization", "EmbedLayerNormalization", "RotaryEmbedding", "GatherBlockQuantized"),
    *("QuantizeLinear", "DequantizeLinear", "QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearSoftmax"),
    *("QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearSigmoid", "QLinearReduceMean"),
}
SIZE_OPS = {
    *("Shape", "Size", "Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Cast", "Add", "Sub", "Mul", "Div", "Mod"),
    *("Min", "Max", "Neg", "Abs", "Floor", "Ceil", "ReduceProd", "ReduceMax", "ReduceMin", "ReduceSum", "Reshape"),
    *("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Not", "And", "Or", "Where", "Identity", "Constant"),
}
MOST_FOLDED = 4096  # elements: sizes, never weights


class _Unknown(Exception):
    """A shape that is not known."""


def total_macs(counts: dict[str, int | None]) -> int | None:
    """Of the whole graph; None where a part is not known."""
    macs = list(counts.values())
    return None if None in macs else sum(count for count in macs if count)


def count_macs(model: ir.Model, free_size: int) -> dict[str, int | None]:
    """By a node's first output, for every node that multiplies or may; None: not known.

    Args:
        model: Is changed: hand in a copy.
        free_size: Of a dimension that a model leaves open, but for the first, which counts examples.
    """
    give_sizes(model, free_size)
    return {str(node.outputs[0].name): _count(node) for node in model.graph if _may_multiply(node)}


def give_sizes(model: ir.Model, free_size: int) -> None:
    """The shapes of all values for one example, as far as they can be worked out; changes the model."""
    if model.functions:
        InlinePass()(model)
    _fix_inputs(model.graph, free_size)
    _infer_shapes(model)


def give_sizes_of_one_example(model: ir.Model) -> None:
    """The same for a phone, which takes one example at a time; raises ``ModelError`` where an input has a free size."""
    for value in fed_inputs(model.graph):
        example_sizes(value)
    give_sizes(model, 1)


def largest_traffic(graph: ir.Graph) -> int:
    """Numbers that a node reads and writes, weights apart, of the node that takes most; shapes must be known."""
    return max((sum(map(_numbers, _computed(node))) for node in graph), default=0)


def _computed(node: ir.Node) -> list[ir.Value]:
    return [value for value in (*node.inputs, *node.outputs) if value is not None and value.const_value is None]


def _numbers(value: ir.Value) -> int:
    return 0 if value.shape is None else prod(size for size in value.shape if isinstance(size, int))


def _infer_shapes(model: ir.Model) -> None:
    """Shapes of all values, sizes computed from other shapes among them."""
    from onnxscript.optimizer import fold_constants  # half a second, which nothing else of a graph needs

    limits = {"input_size_limit": MOST_FOLDED, "output_size_limit": MOST_FOLDED}
    with suppress(Exception):  # a shape that cannot be inferred stays unknown
        fold_constants(model, onnx_shape_inference=True, should_fold=_computes_a_size, **limits)


def _computes_a_size(node: ir.Node) -> bool | None:
    """Whether a node may be evaluated: one whose outcome may be far larger than its inputs never is."""
    return None if node.op_type in SIZE_OPS else False


def _may_multiply(node: ir.Node) -> bool:
    if node.op_type in COUNTS or node.op_type in UNCOUNTED or _hides_products(node):
        return True
    return node.domain not in STANDARD and node.op_type not in PLAIN


def _fix_inputs(graph: ir.Graph, free_size: int) -> None:
    """One example, and no shape that was worked out for another size."""
    for node in graph:
        for value in node.outputs:
            value.shape = None
    for value in fed_inputs(graph):
        if value.shape is not None:
            sizes = [size if isinstance(size, int) else free_size for size in value.shape]
            value.shape = ir.Shape([1, *sizes[1:]] if sizes else [])
    for value in graph.outputs:
        if value.producer() is not None:
            value.shape = None


def _count(node: ir.Node) -> int | None:
    if node.op_type not in COUNTS:
        return None
    try:
        return COUNTS[node.op_type](node)
    except (_Unknown, IndexError, ValueError, ZeroDivisionError):
        return None


def _hides_products(node: ir.Node) -> bool:
    """A loop or a branch with products in it: how often they run is known to nobody."""
    graphs = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
    return any(_may_multiply(inner) for graph in graphs for inner in graph)


def _shape(value: ir.Value | None) -> Shape:
    if value is None:
        raise _Unknown
    shape = value.shape if value.shape is not None else getattr(value.const_value, "shape", None)
    sizes = tuple(shape) if shape is not None else None
    if sizes is None or not all(isinstance(size, int) for size in sizes):
        raise _Unknown
    return tuple(int(size) for size in sizes)


def _convolution(weight: int) -> Callable[[ir.Node], int]:
    return lambda node: prod(_shape(node.outputs[0])[2:]) * prod(_shape(node.inputs[weight]))


def _product(node: ir.Node) -> int:
    """Every output sums over the inner size, the last of the first input."""
    first = _shape(node.inputs[0])
    return prod(_shape(node.outputs[0])) * first[-2 if node.attributes.get_int("transA", 0) else -1]


def _einsum(node: ir.Node) -> int:
    """One for each combination of indices, as far as there are two factors."""
    written = node.attributes["equation"].as_string().replace(" ", "").partition("->")[0]
    if "." in written or len(node.inputs) < 2:
        raise _Unknown
    sizes: dict[str, int] = {}
    for letters, value in zip(written.split(","), node.inputs, strict=True):
        sizes |= dict(zip(letters, _shape(value), strict=True))
    return prod(sizes.values()) * (len(node.inputs) - 1)


def _recurrent(node: ir.Node) -> int:
    """``X [length, examples, in]`` through ``W`` and ``R`` of every direction."""
    length, examples, *_ = _shape(node.inputs[0])
    return length * examples * (prod(_shape(node.inputs[1])) + prod(_shape(node.inputs[2])))


def _attention(node: ir.Node) -> int:
    """Queries with keys, then shares with values: ``[examples, heads, length, size]``, or heads side by side."""
    if any(value is not None for value in node.inputs[4:]):
        raise _Unknown  # keys and values of earlier tokens, as many as there are
    q, k = _shape(node.inputs[0]), _shape(node.inputs[1])
    v = _shape(node.inputs[2])
    heads = node.attributes.get_int("q_num_heads", 0)
    channels = prod(q[1:]) // q[-2] if len(q) == 4 else q[-1]
    kv_heads = node.attributes.get_int("kv_num_heads", heads)
    values = q[1] * v[-1] if len(v) == 4 else v[-1] * heads // max(kv_heads, 1)
    return q[0] * q[-2] * k[-2] * (channels + values)


COUNTS: dict[str, Callable[[ir.Node], int]] = {
    **dict.fromkeys(["Conv", "FusedConv", "ConvInteger"], _convolution(1)),
    "QLinearConv": _convolution(3),
    "ConvTranspose": lambda node: prod(_shape(node.inputs[0])[2:]) * prod(_shape(node.inputs[1])),
    **dict.fromkeys(["Gemm", "MatMul", "FusedMatMul", "FusedGemm", "QGemm", "MatMulInteger"], _product),
    **dict.fromkeys(["QLinearMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"], _product),
    "MatMulNBits": lambda node: prod(_shape(node.inputs[0])) * node.attributes.get_int("N", 0),
    "Einsum": _einsum,
    **dict.fromkeys(["GRU", "LSTM", "RNN", "DynamicQuantizeLSTM"], _recurrent),
    "Attention": _attention,
}
UNCOUNTED = {"GroupQueryAttention", "MultiHeadAttention", "QAttention", "LinearAttention", "DeformConv", "DFT", "STFT"}
"""Products without a rule."""
