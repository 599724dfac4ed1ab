"""From an ONNX graph to a MIL program: the same arithmetic on the same scales and integers, node by node.

QuantizeLinear and DequantizeLinear become MIL's ``quantize`` and ``dequantize`` with the graph's own scales and zero
points. MIL's operators take floats, so what a graph does with integers as they are (a pooling, a move) is done with
their real numbers, which lie on the same grid, and the result is integers again: an exact way round.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import ModelError, first_line
from squeeze.formats.mlpackage import coremltools
from squeeze.formats.onnx_attributes import value_sizes
from squeeze.formats.onnx_graph import STANDARD, constant, fed_inputs, holds_stored_integers, producer
from squeeze.formats.onnx_layer import LAYER_OPS
from squeeze.formats.onnx_step import StoredStep, stored_step
from squeeze.writers.mil.builder import Builder, name_rest
from squeeze.writers.mil.layers import add_layer, target_of
from squeeze.writers.mil.names import Names, weight_names
from squeeze.writers.mil.operators import ALL_OPERANDS, KEEPS_GRID, OPERATORS, Place

MAIN = "main"


def misfits(graph: ir.Graph) -> Iterator[str]:
    """Nodes that have no form in MIL here, by name."""
    have = ", ".join(sorted({*OPERATORS, *LAYER_OPS}))
    known = {*OPERATORS, *LAYER_OPS, "QuantizeLinear", "DequantizeLinear", "Constant"}
    for node in graph:
        if node.domain not in STANDARD or node.op_type not in known:
            domain = f"{node.domain}." if node.domain not in STANDARD else ""
            yield f"{node.name}: {domain}{node.op_type} has no form in MIL here; {have} have"
        elif node.op_type in ("Conv", "Gemm") and not _has_weight(node):
            yield f"{node.name}: {node.op_type} with weights that are computed; stored ones would do"


def mil_program(model: ir.Model, grids: Mapping[str, QuantizedTensor]) -> tuple[Any, str]:
    """The program for one example at a time, and the first system that takes it, such as ``iOS17``.

    Args:
        model: With the shapes of all values for one example; its layers' weights as floats.
        grids: Of the layers whose weights are integers, by name.

    Raises:
        ModelError: what has no form in MIL, named with its layer.
    """
    for reason in misfits(model.graph):
        raise ModelError(reason)
    walk = _Walk(model.graph, grids)
    return walk.program(), walk.target


class _Walk:
    def __init__(self, graph: ir.Graph, grids: Mapping[str, QuantizedTensor]) -> None:
        self.tools = coremltools()  # first, since it imports the package without its warnings
        self.graph, self.grids, self.mb = graph, grids, Builder()
        self.names, self.weight_names, self.target = Names(), weight_names(grids), target_of(grids.values())
        self.values: dict[str, Any] = {}  # of the builder, by their names in the graph
        self.steps: dict[str, StoredStep] = {}  # of values that are integers
        self.reals: dict[str, Any] = {}  # what integers stand for, where an operator asked for it

    def program(self) -> Any:
        from coremltools.converters.mil.mil import Function, Program

        inputs = fed_inputs(self.graph)
        places = {self.names.of(str(value.name)): self._input(value) for value in inputs}
        with Function(places, opset_version=getattr(self.tools.target, self.target)) as function:
            for value, name in zip(inputs, places, strict=True):
                self.values[str(value.name)] = function.inputs[name]
            for node in self.graph:
                self._add(node)
            function.set_outputs([self._output(value) for value in self.graph.outputs])
        name_rest(function)
        program = Program()
        program.add_function(MAIN, function)
        return program

    def _input(self, value: ir.Value) -> Any:
        if value.dtype not in (None, ir.DataType.FLOAT):
            raise ModelError(f"input '{value.name}' is of type {value.dtype}; FLOAT would do")
        return self.mb.input(self.names.of(str(value.name)), value_sizes(value))

    def _output(self, value: ir.Value) -> Any:
        """A value as an output: of that name, and computed."""
        name, result = self.names.of(str(value.name)), self._read(value, None)
        if str(value.name) in self.steps:
            raise ModelError(f"output '{value.name}' is integers; DequantizeLinear behind it would do")
        return result if result.name == name and result.op is not None else self.mb.identity(x=result, name=name)

    def _add(self, node: ir.Node) -> None:
        if node.op_type == "Constant" or holds_stored_integers(node):
            return
        if len(node.outputs) != 1:
            raise ModelError(f"{node.name}: {node.op_type} with {len(node.outputs)} outputs; one would do")
        out = node.outputs[0]
        place = Place(self.mb, node, self.names.of(str(out.name)), value_sizes(out))
        try:
            result = self._computed(place)
        except (ValueError, TypeError, AssertionError, NotImplementedError) as error:  # the builder's own refusals
            raise ModelError(f"{node.name}: coremltools takes no such {node.op_type} ({first_line(error)})") from error
        if tuple(result.shape) != place.shape:
            what = f"gives {list(result.shape)} in MIL and {list(place.shape)} in ONNX"
            raise ModelError(f"{node.name}: {node.op_type} {what}")
        self.values[str(out.name)] = result

    def _computed(self, place: Place) -> Any:
        node, source = place.node, str(place.node.inputs[0].name)  # type: ignore[union-attr]
        if node.op_type == "QuantizeLinear":
            self.steps[str(node.outputs[0].name)] = step = stored_step(node)
            return self._quantized(self._read(node.inputs[0], node), step, place.name)
        if node.op_type == "DequantizeLinear":
            return self._dequantized(self._read(node.inputs[0], node), stored_step(node), place.name)
        if node.op_type in LAYER_OPS and _has_weight(node, self.grids):
            grid, name = self.grids.get(str(node.name)), self.weight_names.get(str(node.name), "")
            return add_layer(place, self._read(node.inputs[0], node), grid, name, self.target)
        if any(map(holds_stored_integers, map(producer, node.inputs))):
            what = "integers of a kind that is not known here; int8 with one axis of scales would do"
            raise ModelError(f"{node.name}: {what}")
        operands = [value for value in node.inputs if value is not None]
        operands = operands if node.op_type in ALL_OPERANDS else operands[:1]
        if source not in self.steps:
            return OPERATORS[node.op_type](place, [self._read(value, node) for value in operands])
        return self._on_integers(place, operands)

    def _on_integers(self, place: Place, operands: list[ir.Value]) -> Any:
        """What keeps a grid, done with real numbers; integers again."""
        node, steps = place.node, [self.steps.get(str(value.name)) for value in operands]
        if node.op_type not in KEEPS_GRID or any(step != steps[0] for step in steps) or steps[0] is None:
            raise ModelError(f"{node.name}: {node.op_type} of integers of several grids has no form in MIL here")
        self.steps[str(node.outputs[0].name)] = step = steps[0]
        reals = [self._real(value, step) for value in operands]
        moved = Place(place.mb, node, f"{place.name}__real", place.shape)
        return self._quantized(OPERATORS[node.op_type](moved, reals), step, place.name)

    def _real(self, value: ir.Value, step: StoredStep) -> Any:
        name = str(value.name)
        if name not in self.reals:
            self.reals[name] = self._dequantized(self.values[name], step, f"{self.names.of(name)}__reals")
        return self.reals[name]

    def _quantized(self, x: Any, step: StoredStep, name: str) -> Any:
        both = {"scale": step.scale, "zero_point": step.zero_point}
        return self.mb.quantize(input=x, output_dtype=step.zero_point.dtype.name, name=name, **both)

    def _dequantized(self, x: Any, step: StoredStep, name: str) -> Any:
        return self.mb.dequantize(input=x, scale=step.scale, zero_point=step.zero_point, name=name)

    def _read(self, value: ir.Value | None, node: ir.Node | None) -> Any:
        """A computed value, or a stored one as an array."""
        assert value is not None
        if str(value.name) in self.values:
            return self.values[str(value.name)]
        tensor, who = constant(value), node.name if node is not None else "the graph"
        if tensor is None:
            raise ModelError(f"{who}: reads '{value.name}', which nothing before it computes")
        if tensor.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
            raise ModelError(f"{who}: its constant '{value.name}' is of type {tensor.dtype}; FLOAT would do")
        return np.array(tensor.numpy())


def _has_weight(node: ir.Node, grids: Mapping[str, QuantizedTensor] | None = None) -> bool:
    """Whether a layer's weight is stored: as floats, behind DequantizeLinear, or among the grids."""
    maker = producer(node.inputs[1])
    integers = maker is not None and maker.op_type in ("DequantizeLinear", "Reshape") and grids is None
    return constant(node.inputs[1]) is not None or integers or str(node.name) in (grids or {})
