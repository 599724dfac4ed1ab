"""Before matrices are rounded: outlying channels of their inputs are divided down, and their weights take it up.

The division is a node of its own in front of the layers that share an input, so that it does not matter who else reads
the input: in BERT the residual reads it too, and no norm could hold the scale.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from squeeze.algorithms.smooth_search import search_smooth
from squeeze.formats.onnx_file import onnx_bytes
from squeeze.formats.onnx_layer import stored_form, weight_matrix
from squeeze.formats.onnx_simplify import initializer
from squeeze.models.onnx_model import OnnxModel
from squeeze.models.ort_session import Feed, feed, fitting, open_session
from squeeze.passes.base import Context

EXAMPLES = 16  # calibration examples run together
SEARCH_BATCHES = 4  # batches on which exponents are searched; largest inputs come from all batches


@dataclass
class LayerInputs:
    """What went into some layers: the largest value per channel, and a few batches as they came."""

    largest: Tensor | None = None
    batches: list[Tensor] = field(default_factory=list)

    def add(self, tokens: Tensor, keep: bool) -> None:
        most = tokens.abs().amax(dim=0)
        self.largest = most if self.largest is None else torch.maximum(self.largest, most)
        if keep:
            self.batches.append(tokens)


def smooth_inputs(model: OnnxModel, graph: ir.Graph, nodes: list[ir.Node], context: Context) -> dict[str, list[float]]:
    """Put the divisions before Gemm and MatMul nodes of ``graph``, which computes the same as ``model``.

    Returns:
        By the first layer that reads an input: its exponent, and the share of the rounding error that is left.
    """
    groups: dict[str, list[ir.Node]] = {}
    for node in nodes:
        if node.op_type != "Conv":
            groups.setdefault(str(node.inputs[0].name), []).append(node)  # type: ignore[union-attr]
    facts = {}
    for name, inputs in _layer_inputs(model, list(groups), context).items():
        readers = groups[name]
        assert inputs.largest is not None
        best = search_smooth(inputs.batches, torch.cat([weight_matrix(node) for node in readers]), inputs.largest)
        facts[str(readers[0].name)] = [best.exponent, round(best.remaining_share, 4)]
        if best.exponent:
            _divide(graph, readers, best.scale)
    return facts


def _divide(graph: ir.Graph, readers: list[ir.Node], scale: Tensor) -> None:
    source, name = readers[0].inputs[0], str(readers[0].name)
    assert source is not None
    inverse = initializer(graph, f"{name}.input.scale", (1 / scale).numpy())
    node = ir.node("Mul", [source, inverse], name=f"{name}.input")
    out = node.outputs[0]
    out.name, out.shape, out.type = f"{name}.input.scaled", source.shape, source.type
    first = min(readers, key=list(graph).index)
    graph.insert_before(first, node)
    for reader in readers:
        weight = stored_form(reader, weight_matrix(reader) * scale)
        reader.replace_input_with(0, out)
        reader.replace_input_with(1, initializer(graph, f"{reader.name}.weight.scaled", weight))


def _layer_inputs(model: OnnxModel, names: list[str], context: Context) -> dict[str, LayerInputs]:
    """Inputs of the layers on calibration data, without masked tokens."""
    exposed = model.copy_ir()
    values = {str(value.name): value for node in exposed.graph for value in node.outputs}
    inner = [name for name in names if name in values]
    exposed.graph.outputs.extend(values[name] for name in inner)
    session = open_session(onnx_bytes(exposed), context.threads, model.source)
    inputs_of, data = {name: LayerInputs() for name in names}, context.calibration
    steps = -(-len(data) // EXAMPLES)
    search_steps = set(np.linspace(0, steps - 1, min(SEARCH_BATCHES, steps)).round().astype(int).tolist())
    for step, batch in enumerate(context.progress.track(data.batches(EXAMPLES), "calibrating", steps)):
        for arrays in fitting(feed(model.inputs, batch, model.source), len(batch), model.fixed_batch):
            outputs = dict(zip(inner, session.run(inner, arrays), strict=True)) if inner else {}
            for name, inputs in inputs_of.items():
                inputs.add(_tokens(outputs[name] if name in outputs else arrays[name], arrays), step in search_steps)
    return inputs_of


def _tokens(array: np.ndarray, arrays: Feed) -> Tensor:
    """``[tokens, in]``, without those that only fill up a batch."""
    values = torch.from_numpy(np.asarray(array, dtype=np.float32))
    mask = next((tensor for name, tensor in arrays.items() if name.endswith("mask")), None)
    if mask is not None and values.shape[:-1] == mask.shape:
        return values[torch.from_numpy(mask).bool()]
    return values.reshape(-1, values.shape[-1])
