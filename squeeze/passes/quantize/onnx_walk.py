"""Walk a float graph node by node with two streams: what it computes, and what its quantized self will compute.

Each layer is rounded and corrected on the inputs that the layers before it now give, so errors are met once, where they
arise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from squeeze.algorithms.affine import Grid, QuantizedTensor, fake_quantize
from squeeze.algorithms.bias_correction import corrected_bias
from squeeze.errors import ModelError
from squeeze.formats.onnx_graph import constant
from squeeze.formats.onnx_layer import can_hold_bias, stored_form
from squeeze.formats.onnx_qdq import LayerWeights
from squeeze.formats.onnx_scheme import Scheme
from squeeze.models.ort_session import Feed, open_session
from squeeze.progress import Progress

Array = np.ndarray[Any, Any]
Rounding = Callable[[ir.Node, QuantizedTensor, Array, Array], QuantizedTensor]


class Walk:
    """Both streams through a graph.

    Args:
        model: The float graph; only read.
        scheme, grids: What becomes integers, and on which grids.
        inputs: Examples, by graph input.
        rounding: Gives a layer's integers from its input in the quantized and in the float stream; None: they stay.
    """

    def __init__(
        self,
        model: ir.Model,
        scheme: Scheme,
        grids: dict[str, Grid],
        inputs: Feed,
        threads: int,
        rounding: Rounding | None = None,
    ) -> None:
        self.model, self.scheme, self.grids, self.threads = model, scheme, grids, threads
        self.rounding = rounding
        self.float_values: dict[str, Array] = dict(inputs)
        self.quantized_values = {name: self._stored(name, array) for name, array in inputs.items()}
        self.readers = Counter(value.name for node in model.graph for value in node.inputs if value is not None)

    def correct_biases(self, weights: dict[str, LayerWeights], progress: Progress) -> dict[str, LayerWeights]:
        """The weights, rounded anew where that is asked for, with biases that keep each output's mean, by node name."""
        corrected: dict[str, LayerWeights] = {}
        nodes = list(self.model.graph)
        for node in progress.track(nodes, "correcting biases", len(nodes)):
            inputs = self._inputs(node, self.float_values)
            expected = self._run(node, inputs)
            if str(node.name) in weights:
                layer = self._rounded(node, weights[str(node.name)], inputs[0])
                layer, actual = self._correct(node, layer, expected[0])
                corrected[str(node.name)] = layer
                outputs = [actual]
            else:
                stored = self._inputs(node, self.quantized_values)
                same = all(a is b for a, b in zip(inputs, stored, strict=True))
                outputs = expected if same else self._run(node, stored)
            self._keep(node, expected, outputs)
        return corrected

    def _rounded(self, node: ir.Node, layer: LayerWeights, original: Array | None) -> LayerWeights:
        given = self._inputs(node, self.quantized_values)[0]
        if self.rounding is None or given is None or original is None:
            return layer
        return LayerWeights(self.rounding(node, layer.weight, given, original), layer.bias)

    def _correct(self, node: ir.Node, layer: LayerWeights, expected: Array) -> tuple[LayerWeights, Array]:
        weight = stored_form(node, layer.weight.dequantize())
        biases = [layer.bias.numpy()] if layer.bias is not None else []
        actual = self._run(node, [self._inputs(node, self.quantized_values)[0], weight, *biases])[0]
        if not can_hold_bias(node):
            return layer, actual
        axis = 1 if node.op_type == "Conv" else actual.ndim - 1
        bias = layer.bias if layer.bias is not None else torch.zeros(actual.shape[axis])
        shifted_bias = corrected_bias(bias, _channels(expected, axis), _channels(actual, axis))
        shift = (shifted_bias - bias).numpy().reshape([-1 if i == axis else 1 for i in range(actual.ndim)])
        return LayerWeights(layer.weight, shifted_bias), actual + shift

    def _keep(self, node: ir.Node, expected: list[Array], outputs: list[Array]) -> None:
        for value, exact, array in zip(node.outputs, expected, outputs, strict=True):
            self.float_values[str(value.name)] = exact
            self.quantized_values[str(value.name)] = self._stored(str(value.name), array)
        for source in node.inputs:
            if source is not None:
                self.readers[source.name] -= 1
                if not self.readers[source.name]:
                    self.float_values.pop(str(source.name), None)
                    self.quantized_values.pop(str(source.name), None)

    def _stored(self, name: str, array: Array) -> Array:
        if self.scheme.root.get(name) != name:
            return array
        return fake_quantize(torch.from_numpy(array), self.grids[name]).numpy()

    def _inputs(self, node: ir.Node, values: dict[str, Array]) -> list[Array | None]:
        return [_value(value, values) for value in node.inputs]

    def _run(self, node: ir.Node, inputs: list[Array | None]) -> list[Array]:
        """One node by itself, in the runtime that will run the whole."""
        arrays = {f"input_{index}": array for index, array in enumerate(inputs) if array is not None}
        session = open_session(_single(node, arrays, self.model), self.threads, f"node '{node.name}'")
        outputs: list[Array] = session.run(None, arrays)
        return outputs


def _single(node: ir.Node, inputs: Feed, model: ir.Model) -> bytes:
    """A model of one node whose inputs, weights too, are fed."""
    import onnx

    proto = ir.to_proto(node)
    del proto.input[:], proto.output[:]
    proto.input.extend(f"input_{i}" if f"input_{i}" in inputs else "" for i in range(len(node.inputs)))
    proto.output.extend(f"output_{i}" for i in range(len(node.outputs)))
    if any(attribute.HasField("g") for attribute in proto.attribute):
        raise ModelError(f"node '{node.name}': {node.op_type} holds a graph of its own, which cannot be calibrated")
    info, element = onnx.helper.make_tensor_value_info, onnx.helper.np_dtype_to_tensor_dtype
    graph = onnx.helper.make_graph(
        [proto],
        "node",
        [info(name, element(array.dtype), None) for name, array in inputs.items()],
        [onnx.helper.make_empty_tensor_value_info(f"output_{i}") for i in range(len(node.outputs))],
    )
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    single = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version)
    data: bytes = single.SerializeToString()
    return data


def _value(value: ir.Value | None, values: dict[str, Array]) -> Array | None:
    if value is None:
        return None
    if value.name in values:
        return values[str(value.name)]
    tensor = constant(value)
    return tensor.numpy() if tensor is not None else None


def _channels(array: Array, axis: int) -> Tensor:
    """``[out, samples]``."""
    return torch.from_numpy(np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1))
