"""An ONNX file that shows what it computes on the way."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import onnx


def showing(file: Path, names: Collection[str]) -> tuple[bytes, dict[str, str]]:
    """The model of a file with some of its inner values as outputs.

    Args:
        names: Values to show; those that the file does not have are left out.

    Returns:
        The model, and for each name the output that shows it: where a value is rounded to integers, what these stand
        for.
    """
    model = onnx.load_model(file)
    made = {name for node in model.graph.node for name in node.output if name}
    rounded = _rounded(model)
    shown = {name: rounded.get(name, name) for name in names if name in made}
    outputs = {value.name for value in model.graph.output}
    new = (name for name in dict.fromkeys(shown.values()) if name not in outputs)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in new)  # the runtime infers the types
    return model.SerializeToString(), shown


def _rounded(model: onnx.ModelProto) -> dict[str, str]:
    """What pairs of QuantizeLinear and DequantizeLinear make of values, by these."""
    integers = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    floats = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return {value: floats[q] for value, q in integers.items() if q in floats}
