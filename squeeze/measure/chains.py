"""Chains of equal layers as ONNX graphs: what a layer costs is the difference between a long chain and a short one.

Weights are seeded noise, each layer with its own, as in a network. Integers are written as the passes write them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt, sqrt
from typing import Any

import numpy as np
import onnx_ir as ir

from squeeze.algorithms.affine import activation_grid, quantize_symmetric
from squeeze.formats.onnx_dynamic import write_dynamic
from squeeze.formats.onnx_layer import bias_vector, weight_matrix
from squeeze.formats.onnx_qdq import LayerWeights, write_qdq
from squeeze.formats.onnx_scheme import plan_scheme
from squeeze.formats.onnx_simplify import initializer
from squeeze.formats.operation import Kind

OPSET = 20
CONTRIB = "com.microsoft"
BLOCK = 32  # weights of int4 that share a scale
WIDTH = 64  # numbers in a row of what has no weights
RANGE = 4.0  # activations that become integers lie between 0 and this, as behind a Relu
KERNEL = {"conv": 3, "pointwise": 1, "depthwise": 3}


class Chain:
    """A graph that grows by one layer after the other; the input is ``x``, the output ``y``.

    Args:
        shape: Of the input, the example among them.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.random = np.random.default_rng(0)
        self.input = ir.Value(name="x", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
        imports = {"": OPSET, CONTRIB: 1}
        self.graph = ir.Graph([self.input], [], nodes=[], opset_imports=imports, name="chain")
        self.last, self.shape = self.input, shape

    def add(
        self, op: str, weights: list[np.ndarray[Any, Any]], domain: str = "", twice: bool = False, **attributes: Any
    ) -> None:
        """A layer that reads the last one's output, once or twice, and gives the same shape."""
        name = f"layer{len(self.graph)}"
        stored = [initializer(self.graph, f"{name}.{place}", array) for place, array in enumerate(weights)]
        node = ir.node(op, [*[self.last] * (1 + twice), *stored], attributes, domain=domain, name=name)
        out = node.outputs[0]
        out.name, out.shape, out.type = f"{name}.y", ir.Shape(self.shape), ir.TensorType(ir.DataType.FLOAT)
        self.graph.append(node)
        self.last = out

    def move(self) -> None:
        """All columns but the first, and zeros behind them: two operators."""
        whole = self.shape
        self.shape = (*whole[:-1], whole[-1] - 1)
        self.add("Slice", [np.array(one, np.int64) for one in ([1], [whole[-1]], [-1])])
        self.shape = whole
        self.add("Pad", [np.array([0] * (2 * len(whole) - 1) + [1], np.int64)])

    def stride(self) -> None:
        """Every second column, twice beside itself."""
        steps = [np.array([one], np.int64) for one in (0, self.shape[-1], -1, 2)]
        stored = [initializer(self.graph, f"steps{len(self.graph)}.{place}", one) for place, one in enumerate(steps)]
        half = self._node("Slice", [self.last, *stored], self.shape[-1] // 2)[0]
        self.last = self._node("Concat", [half, half], self.shape[-1], {"axis": -1})[0]

    def add_glue(self) -> None:
        """Two norms that add first, and the half of a doubled row that the other half lets through."""
        for _ in range(2):
            self.add("SkipSimplifiedLayerNormalization", [self.noise(self.shape[-1])], CONTRIB, twice=True)
        row, width = self.last, self.shape[-1]
        double = self._node("Concat", [row, row], 2 * width, {"axis": -1})[0]
        gate, up = self._node("Split", [double], width, {"axis": -1, "num_outputs": 2}, 2)
        curve = self._node("Sigmoid", [gate], width)[0]
        self.last = self._node("Mul", [self._node("Mul", [gate, curve], width)[0], up], width)[0]

    def _node(
        self, op: str, inputs: list[ir.Value], width: int, attributes: dict[str, Any] | None = None, outputs: int = 1
    ) -> Sequence[ir.Value]:
        name = f"layer{len(self.graph)}"
        node = ir.node(op, inputs, attributes or {}, num_outputs=outputs, name=name)
        for place, out in enumerate(node.outputs):
            out.name, out.type = f"{name}.y{place}", ir.TensorType(ir.DataType.FLOAT)
            out.shape = ir.Shape([*self.shape[:-1], width])
        self.graph.append(node)
        return node.outputs

    def noise(self, *shape: int, inputs: int = 1) -> np.ndarray[Any, Any]:
        """Weights whose products keep the size of what they are multiplied with."""
        return (self.random.standard_normal(shape) / sqrt(inputs)).astype(np.float32)

    def finish(self) -> ir.Model:
        self.last.name = "y"
        self.graph.outputs.append(self.last)
        return ir.Model(self.graph, ir_version=10)


def convolutions(kind: Kind, channels: int, places: int, layers: int) -> ir.Model:
    """Convolutions, each with a bias and a Relu."""
    side, kernel = isqrt(places), KERNEL[kind]
    chain = Chain((1, channels, side, side))
    groups = channels if kind == "depthwise" else 1
    width = channels // groups
    for _ in range(layers):
        weight = chain.noise(channels, width, kernel, kernel, inputs=width * kernel**2)
        pads = [kernel // 2] * 4
        chain.add("Conv", [weight, chain.noise(channels)], kernel_shape=[kernel] * 2, pads=pads, group=groups)
        chain.add("Relu", [])
    return chain.finish()


def products(channels: int, rows: int, layers: int) -> ir.Model:
    """Matrix products ``[rows, channels] @ [channels, channels]``."""
    chain = Chain((1, rows, channels))
    for _ in range(layers):
        chain.add("MatMul", [chain.noise(channels, channels, inputs=channels)])
    return chain.finish()


def int4_products(channels: int, rows: int, layers: int) -> ir.Model:
    """The same with int4 weights in groups, as a decoder has them."""
    chain, blocks = Chain((1, rows, channels)), channels // BLOCK
    for _ in range(layers):
        packed = chain.random.integers(0, 256, (channels, blocks, BLOCK // 2), dtype=np.uint8)
        scales = np.abs(chain.noise(channels, blocks, inputs=32 * channels)) + np.float32(1e-3)
        chain.add(
            "MatMulNBits",
            [packed, scales],
            CONTRIB,
            K=channels,
            N=channels,
            bits=4,
            block_size=BLOCK,
            accuracy_level=4,
        )
    return chain.finish()


def elementwise(kind: Kind, values: int, layers: int) -> ir.Model:
    """Operators without products on rows of ``WIDTH`` numbers, behind a product that makes integers of them."""
    chain = Chain((1, max(values // WIDTH, 1), WIDTH))
    chain.add("MatMul", [chain.noise(WIDTH, WIDTH, inputs=WIDTH)])
    for _ in range(layers):
        _add_layer(chain, kind)
    return chain.finish()


def _add_layer(chain: Chain, kind: Kind) -> None:
    if kind == "softmax":
        chain.add("Softmax", [], axis=-1)
    elif kind == "curve":
        chain.add("Gelu", [])
    elif kind == "norm":  # runtimes make one operator of the sum and the norm
        chain.add("Add", [], twice=True)
        chain.add("LayerNormalization", [chain.noise(WIDTH), chain.noise(WIDTH)], axis=-1)
    elif kind == "move":
        chain.move()
    elif kind == "stride":
        chain.stride()
    else:
        chain.add("Add", [], twice=True)


def glue(width: int, layers: int) -> ir.Model:
    """What a decoder's block has between its products and its attention: norms with sums, and a gated activation."""
    chain = Chain((1, 1, width))
    for _ in range(layers):
        chain.add_glue()
    return chain.finish()


def as_static(model: ir.Model) -> ir.Model:
    """Every layer on integers, as ``quantize_static`` writes them."""
    scheme = plan_scheme(model.graph, {})
    grids = {root: activation_grid(0.0, RANGE) for root in scheme.roots}
    layers = [node for node in model.graph if node.name in scheme.layers]
    weights = {
        str(one.name): LayerWeights(quantize_symmetric(weight_matrix(one), 8), bias_vector(one)) for one in layers
    }
    write_qdq(model, scheme, grids, weights)
    return model


def as_dynamic(model: ir.Model) -> ir.Model:
    """Every product with inputs that are rounded as they come, as ``quantize_dynamic`` writes them."""
    for node in list(model.graph):
        write_dynamic(model.graph, node, quantize_symmetric(weight_matrix(node), 8))
    return model
