"""An exported decoder in the operators that XNNPACK runs at any length, so that a block is not cut at every norm.

XNNPACK reshapes, where one dimension may be open; it averages no rows and slices nothing of open length. So reshapes
say their sizes as numbers, the mean of a row becomes a product with a row of ``1 / n``, and the rotary turn of halves a
product with a matrix of ones and minus ones, which is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument

ATEN: Any = torch.ops.aten
VIEWS = frozenset({ATEN.view.default, ATEN.reshape.default, ATEN.unsqueeze.default, ATEN.squeeze.dim, ATEN.select.int})
Constant = Callable[[str, Tensor], fx.Node]


def simplify(program: ExportedProgram) -> None:
    """Rewrite the program in place."""
    constants: dict[str, fx.Node] = {}

    def constant(name: str, data: Tensor) -> fx.Node:
        if name not in constants:
            constants[name] = _added(program, name, data)
        return constants[name]

    for node in list(program.graph.nodes):
        if node.op == "call_function":
            _simplify_view(node)
            _simplify_mean(node, constant)
            _simplify_turn(node, constant)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()


def _simplify_view(node: fx.Node) -> None:
    """Say the new shape with -1 in place of the one length that is open."""
    if node.target not in VIEWS:
        return
    source: Any = node.args[0]
    before = source.meta["val"]
    if node.target is ATEN.select.int and before.shape[node.args[1]] != 1:
        return  # it leaves something out
    shape = [size if isinstance(size, int) else -1 for size in node.meta["val"].shape]
    if shape.count(-1) <= 1 and before.is_contiguous():
        node.target, node.args = ATEN.view.default, (source, shape)


def _simplify_mean(node: fx.Node, constant: Constant) -> None:
    arguments: Any = node.args
    if node.target is not ATEN.mean.dim or node.kwargs or len(arguments) != 3 or not arguments[2]:
        return
    source, axes = arguments[0], list(arguments[1])
    shape = source.meta["val"].shape
    width = shape[-1]
    if axes in ([-1], [len(shape) - 1]) and isinstance(width, int):
        shares = constant(f"mean_of_{width}", torch.full((1, width), 1 / width))
        node.target, node.args = ATEN.linear.default, (source, shares)


def _simplify_turn(node: fx.Node, constant: Constant) -> None:
    """The second half of a row, negated, before the first one: how rotary embeddings turn."""
    parts: Any = node.args[0] if node.target is ATEN.cat.default else ()
    if len(parts) != 2 or parts[0].target is not ATEN.neg.default:
        return
    second, first = parts[0].args[0], parts[1]
    if not all(part.target is ATEN.slice.Tensor and len(part.args) == 4 for part in (first, second)):
        return
    source = first.args[0]
    axis, width = source.meta["val"].dim() - 1, source.meta["val"].shape[-1]
    half = width // 2
    halves = [(source, axis, 0, half), (source, axis, half, torch.iinfo(torch.int64).max)]
    if [first.args, second.args] == halves and width == 2 * half:
        turn = torch.diag(torch.ones(half), -half) - torch.diag(torch.ones(half), half)
        node.target, node.args, node.kwargs = ATEN.linear.default, (source, constant(f"turn_of_{width}", turn)), {}


def _added(program: ExportedProgram, name: str, data: Tensor) -> fx.Node:
    """A constant of the program, in front of its other inputs."""
    first = next(node for node in program.graph.nodes if node.op == "placeholder")
    with program.graph.inserting_before(first):
        added: fx.Node = program.graph.placeholder(name)
    added.meta["val"] = first.meta["val"].fake_mode.from_tensor(data, static_shapes=True)
    spec = InputSpec(InputKind.BUFFER, TensorArgument(added.name), name, persistent=True)
    program.graph_signature.input_specs.insert(0, spec)
    program.state_dict[name] = data
    return added
