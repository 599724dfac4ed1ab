"""From an ONNX graph to a ``.tflite`` file: the same arithmetic on the same scales and integers.

An operator between DequantizeLinear and QuantizeLinear becomes an integer kernel; everything else stays float. A layer
with integer weights whose outputs stay floats, such as the last, rounds its inputs by a range that it takes from each
example itself, as LiteRT's kernels do.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import ModelError
from squeeze.formats.onnx_graph import STANDARD, constant, fed_inputs, holds_stored_integers
from squeeze.formats.onnx_layer import LAYER_OPS, real_bias
from squeeze.formats.onnx_options import require_softmax_of_one_axis
from squeeze.formats.onnx_step import step_of
from squeeze.writers.tflite.file import TfliteFile
from squeeze.writers.tflite.layers import Layer, add_layer
from squeeze.writers.tflite.operators import ACTIVATES, FIXED, KEEPS_GRID, OPERATORS, activation_of
from squeeze.writers.tflite.values import Value, Values


def tflite_bytes(model: ir.Model, grids: Mapping[str, QuantizedTensor]) -> bytes:
    """The file for one example at a time.

    Args:
        model: With the shapes of all values for one example; its layers' weights as floats.
        grids: Of the layers whose weights are integers, by name.

    Raises:
        ModelError: what has no form in such a file, named with its layer.
    """
    return _Walk(model, grids).data()


class _Walk:
    def __init__(self, model: ir.Model, grids: Mapping[str, QuantizedTensor]) -> None:
        self.graph, self.grids = model.graph, grids
        self.file = TfliteFile()
        self.values = Values(self.file)
        self.done: set[ir.Node] = set()  # activations and QuantizeLinear that an operator before them took over

    def data(self) -> bytes:
        inputs = fed_inputs(self.graph)
        for value in inputs:
            dtype = str((value.dtype or ir.DataType.FLOAT).numpy())
            self.values.new(value, dtype=dtype)
        first = [self.values.by_name[str(value.name)].index for value in inputs]
        for node in self.graph:
            self._add(node)
        last = [self._output(value) for value in self.graph.outputs]
        return self.file.data(first, last)

    def _add(self, node: ir.Node) -> None:
        if node in self.done or node.op_type == "Constant" or holds_stored_integers(node):
            return
        if node.domain not in STANDARD or len(node.outputs) != 1:
            raise ModelError(f"{node.name}: {node.domain}{node.op_type} has no form in .tflite here; exclude its layer")
        if node.op_type == "QuantizeLinear":
            self._quantize(node)
        elif node.op_type == "DequantizeLinear":
            name = str(node.inputs[0].name)  # type: ignore[union-attr]
            self.values.integers[str(node.outputs[0].name)] = self.values.by_name[name]
        elif node.op_type == "Identity":
            self._same(node)
        else:
            self._compute(node)

    def _quantize(self, node: ir.Node) -> None:
        source, step = self.values.read(node.inputs[0], node), step_of(node)
        out = self.values.new(node.outputs[0], source.last, step)
        self.file.operator("QUANTIZE", [source.index], [out.index], "QuantizeOptions")

    def _same(self, node: ir.Node) -> None:
        names = str(node.inputs[0].name), str(node.outputs[0].name)  # type: ignore[union-attr]
        for known in (self.values.by_name, self.values.integers):
            if names[0] in known:
                known[names[1]] = known[names[0]]

    def _compute(self, node: ir.Node) -> None:
        """An operator: on integers where it stands between them, else on reals."""
        layer = self._layer(node)
        if layer is None and node.op_type not in OPERATORS:
            have = ", ".join(sorted({*OPERATORS, *LAYER_OPS}))
            raise ModelError(f"{node.name}: {node.op_type} has no form in .tflite here; {have} have")
        if node.op_type == "Softmax":
            require_softmax_of_one_axis(node)
        computed = [v for v in (node.inputs[:1] if layer else node.inputs) if v is not None and constant(v) is None]
        end, activation = _end(node)
        rounded = _rounded(end)
        behind = [self.values.integers.get(str(value.name)) for value in computed]
        integers = [value for value in behind if value is not None]
        takes_integers = layer is None or layer.grid is not None
        if rounded is not None and takes_integers and computed and len(integers) == len(node.inputs[: len(computed)]):
            self._on_integers(node, layer, integers, rounded, activation)
        else:
            self._as_it_comes(node, layer, [self.values.read(value, node) for value in computed])
            if activation:
                self.file.activate(activation, str(end.outputs[0].name))
                self.values.by_name[str(end.outputs[0].name)] = self.values.by_name[str(node.outputs[0].name)]
        if activation:
            self.done.add(end)

    def _on_integers(
        self, node: ir.Node, layer: Layer | None, reads: list[Value], rounded: ir.Node, activation: str | None
    ) -> None:
        """The operator with the activation and the QuantizeLinear behind it."""
        step = step_of(rounded)
        if layer is not None:
            out = add_layer(self.values, layer, reads[0], step)
        else:
            own = reads[0].step if node.op_type in KEEPS_GRID else FIXED.get(node.op_type, step)
            out = OPERATORS[node.op_type](self.values, node, reads, own)
        if activation:
            self.file.activate(activation, str(rounded.inputs[0].name))  # type: ignore[union-attr]
        self.values.by_name[str(rounded.outputs[0].name)] = self.values.on_step(out, step)
        self.done.add(rounded)

    def _as_it_comes(self, node: ir.Node, layer: Layer | None, reads: list[Value]) -> None:
        """Reals; or a move of integers, which keeps their grid."""
        if layer is not None:
            if reads[0].step is not None or (layer.grid is not None and node.op_type == "Conv"):
                what = "its weights are integers and what goes in or comes out is not"
                raise ModelError(f"{node.name}: {what}; quantize_static gives both")
            add_layer(self.values, layer, reads[0], None)
            return
        step = reads[0].step if reads else None
        if step is not None and node.op_type not in (*KEEPS_GRID, "Concat", "Relu"):
            raise ModelError(f"{node.name}: {node.op_type} of integers as they are has no form in .tflite here")
        OPERATORS[node.op_type](self.values, node, reads, step)

    def _layer(self, node: ir.Node) -> Layer | None:
        if node.op_type not in LAYER_OPS or (constant(node.inputs[1]) is None and str(node.name) not in self.grids):
            return None
        return Layer(node, self.grids.get(str(node.name)), real_bias(node))

    def _output(self, value: ir.Value) -> int:
        """An output of the graph, as ONNX lays it out."""
        node = value.producer()
        assert node is not None, "an output is computed"
        found = self.values.turned(self.values.read(value, node), last=False)
        tensor = self.file.graph.tensors[found.index]
        if tensor.name != value.name:
            self.file.graph.tensors[self.values.by_name[str(value.name)].index].name = f"{value.name}.channels_last"
            tensor.name = str(value.name)
        return found.index


def _end(node: ir.Node) -> tuple[ir.Node, str | None]:
    """The activation behind a node that its kernel can apply, and what kernels call it; else the node itself."""
    readers = [use.node for use in node.outputs[0].uses()]
    if node.op_type not in ACTIVATES or len(readers) != 1 or node.outputs[0].is_graph_output():
        return node, None
    kind = activation_of(readers[0])
    return (node, None) if kind is None else (readers[0], kind)


def _rounded(node: ir.Node) -> ir.Node | None:
    """The one QuantizeLinear that reads a node's output, and nothing else does; None: there is none."""
    output = node.outputs[0]
    readers = [use.node for use in output.uses()]
    if len(readers) != 1 or readers[0].op_type != "QuantizeLinear" or output.is_graph_output():
        return None
    return readers[0]
