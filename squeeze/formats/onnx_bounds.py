"""How large a stranger's ONNX file may become: judged on the protobuf message, before anything is made of it.

A few bytes can claim a tensor of terabytes, functions that call each other 2^24 times, or a constant that the runtime
would fold into all memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import onnx_ir as ir

from squeeze.errors import ModelError
from squeeze.formats.onnx_external import every_tensor

MOST_VALUES = 2**31  # values of one tensor: protobuf holds 2 GiB
MOST_NODES = 1_000_000  # functions written out where they are called
MOST_SHAPE_VALUES = 64  # values of a constant that is read as a shape
TYPED_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
Key = tuple[str, str, str]


def require_bounded(proto: Any, where: str) -> None:
    """Refuse tensors that hold other than they claim, and graphs that unfold without bound.

    Raises:
        ModelError: with the name of the tensor, function or node.
    """
    for tensor in every_tensor(proto):
        if fault := tensor_fault(tensor):
            raise ModelError(f"{where}: tensor '{tensor.name[:80]}' {fault}")
    if (nodes := _inlined_nodes(proto, where)) > MOST_NODES:
        raise ModelError(f"{where}: {nodes:.3g} nodes once its functions are written out; {MOST_NODES:,} are the most")
    for graph in (proto.graph, *_subgraphs(proto.graph)):
        _require_small_constants(graph, where)


def tensor_fault(tensor: Any) -> str | None:
    """What a tensor claims that its bytes do not hold; None where they agree."""
    dims = list(tensor.dims)
    if any(size < 0 for size in dims):
        return f"has the shape {dims}; sizes from 0 on would do"
    values = math.prod(dims)
    if values > MOST_VALUES:
        return f"has {values:.3g} values; {MOST_VALUES:,} are the most"
    try:
        bits = 0 if tensor.data_type == ir.DataType.STRING else ir.DataType(tensor.data_type).bitwidth
    except (ValueError, TypeError):
        return f"is of data type {tensor.data_type}, which ONNX does not know"
    nbytes = -(-values * bits // 8)
    external = tensor.data_location == tensor.EXTERNAL
    return _external_fault(tensor, nbytes) if external else _inline_fault(tensor, values, nbytes)


def _inline_fault(tensor: Any, values: int, nbytes: int) -> str | None:
    if tensor.HasField("raw_data"):
        size = len(tensor.raw_data)
        return None if size == nbytes else f"{list(tensor.dims)} takes {nbytes} bytes and holds {size}; truncated?"
    size = sum(len(getattr(tensor, field)) for field in TYPED_FIELDS)
    right = {values, 2 * values, nbytes}  # complex numbers lie in pairs, narrow ones several to a field
    return None if size in right else f"{list(tensor.dims)} has {values} values and holds {size}; truncated?"


def _external_fault(tensor: Any, nbytes: int) -> str | None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    for key in ("offset", "length"):
        if key in entries and not (entries[key].isdecimal() and len(entries[key]) < 19):
            return f"has {key} '{entries[key][:40]}' in a side file; a number of bytes would do"
    if "length" in entries and int(entries["length"]) != nbytes:
        return f"{list(tensor.dims)} takes {nbytes} bytes and names {entries['length']} of a side file"
    return None


def _inlined_nodes(proto: Any, where: str) -> int:
    """Nodes of the graph once every call of a function is replaced by what it calls."""
    functions = {(f.domain, f.name, f.overload): list(_nodes(f.node)) for f in proto.functions}
    sizes: dict[Key, int] = {}
    open_calls: list[Key] = []

    def size(key: Key) -> int:
        if key in open_calls or len(open_calls) > 200:
            raise ModelError(f"{where}: function '{key[1][:80]}' calls itself, or functions lie more than 200 deep")
        if key not in sizes:
            open_calls.append(key)
            sizes[key] = _count(functions[key], functions, size)
            open_calls.pop()
        return sizes[key]

    return max([_count(list(_nodes(proto.graph.node)), functions, size), *(size(key) for key in functions)])


def _count(nodes: list[Any], functions: Mapping[Key, Any], size: Any) -> int:
    keys = [(node.domain, node.op_type, node.overload) for node in nodes]
    called: int = sum(size(key) for key in keys if key in functions)
    return len(nodes) + called


def _nodes(nodes: Any) -> Iterator[Any]:
    """Nodes, with those of the graphs in their attributes."""
    for node in nodes:
        yield node
        for graph in _graphs(node):
            yield from _nodes(graph.node)


def _subgraphs(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        for inner in _graphs(node):
            yield inner
            yield from _subgraphs(inner)


def _graphs(node: Any) -> list[Any]:
    return [g for a in node.attribute for g in (*([a.g] if a.HasField("g") else []), *a.graphs)]


def _require_small_constants(graph: Any, where: str) -> None:
    """The runtime computes a node of constants when it opens the file, however large the outcome."""
    known = _small_constants(graph)
    for node in graph.node:
        arguments = [known.get(name) for name in node.input]
        values = _outcome(node.op_type, arguments)
        if values > MOST_VALUES:
            name = node.name or node.op_type
            raise ModelError(f"{where}: node '{name[:80]}' makes {values:.3g} constant values; {MOST_VALUES:,} at most")


def _outcome(kind: str, arguments: list[list[float] | None]) -> float:
    """How many values a node makes, where its inputs say so; else 0."""
    if kind in ("ConstantOfShape", "Expand", "Tile") and arguments and arguments[-1]:
        return math.prod(max(size, 0) for size in arguments[-1])
    if kind == "Range" and len(arguments) == 3 and all(a and len(a) == 1 for a in arguments):
        start, stop, step = (a[0] for a in arguments if a)
        return (stop - start) / step if step else math.inf
    return 0


def _small_constants(graph: Any) -> dict[str, list[float]]:
    """By name, initializers and constants that may be shapes."""
    constants = [(n.output[0], a) for n in graph.node if n.op_type == "Constant" and n.output for a in n.attribute]
    tensors = [(t.name, t) for t in graph.initializer] + [(name, a.t) for name, a in constants if a.HasField("t")]
    known = {name: _values(tensor) for name, tensor in tensors if _is_small(tensor)}
    return known | {name: list(a.ints) or [a.i] for name, a in constants if a.name in ("value_int", "value_ints")}


def _is_small(tensor: Any) -> bool:
    inside = tensor.data_location != tensor.EXTERNAL and tensor.data_type != ir.DataType.STRING
    return bool(inside and math.prod(tensor.dims) <= MOST_SHAPE_VALUES)


def _values(tensor: Any) -> list[float]:
    import onnx

    return [float(value) for value in onnx.numpy_helper.to_array(tensor).reshape(-1)]
