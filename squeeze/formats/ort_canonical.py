"""The ``.ort`` format's one random part, put in order.

An ``.ort`` file is a flatbuffer: root table, then the kernel type resolver, then the model. ONNX Runtime (1.32) writes
the resolver's entries in the order of a hash table that differs from run to run, so equal models give unequal files.
Its reader takes them in any order. Here the resolver is written again, sorted; the model's bytes stay as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

_IDENTIFIER = b"ORTM"
_ALIGNMENT = 64  # a multiple of whatever the model's tables and tensors were aligned to
_VERSION_FIELD = 4  # the root table's vtable entry
_UINT8 = 2  # TensorDataType


def sorted_resolver(data: bytes) -> bytes:
    """The same ``.ort`` file with the resolver in order: equal models give equal bytes."""
    root = ort_root(data)
    model, version = root.Model()._tab.Pos, _version_position(root)
    start = min(model, _vtable_position(data, model))
    assert version > start, "the runtime's version lies outside the model's part: the layout has changed"
    resolver = root.KernelTypeStrResolver()
    operators = _items(resolver.OpKernelTypeStrArgs, resolver.OpKernelTypeStrArgsLength())
    builder = import_module("flatbuffers").Builder(0)
    builder.Bytes = bytearray(start + _ALIGNMENT) + data[start:]
    builder.head, builder.minalign = start + _ALIGNMENT, _ALIGNMENT
    ordered = sorted(operators, key=lambda operator: operator.OpId())
    resolver = _table(builder, [_vector(builder, [_write_operator(builder, one) for one in ordered])])
    builder.StartObject(4)
    builder.PrependUOffsetTRelativeSlot(0, len(data) - version, 0)
    builder.PrependUOffsetTRelativeSlot(1, len(data) - model, 0)
    builder.PrependUOffsetTRelativeSlot(3, resolver, 0)
    builder.Finish(builder.EndObject(), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def required_operators(data: bytes) -> dict[str, dict[int, set[str]]]:
    """Domain, then opset version, to the operators that the graph and its subgraphs run."""
    needed: dict[str, dict[int, set[str]]] = {}
    for node in _nodes(ort_root(data).Model().Graph()):
        domain = node.Domain().decode() or "ai.onnx"
        needed.setdefault(domain, {}).setdefault(node.SinceVersion(), set()).add(node.OpType().decode())
    return needed


def holds_uint8(data: bytes) -> bool:
    """Whether the graph stores numbers of type uint8, such as the zero points of unsigned activations."""
    graph = ort_root(data).Model().Graph()
    return any(one.DataType() == _UINT8 for one in _items(graph.Initializers, graph.InitializersLength()))


def ort_root(data: bytes) -> Any:
    """The root table, through ONNX Runtime's own reader."""
    with _quiet_logging():
        import_module("onnxruntime.tools.ort_format_model")  # puts its flatbuffers module on the path
    reader = import_module("ort_flatbuffers_py.fbs.InferenceSession")
    return reader.InferenceSession.GetRootAs(data, 0)


def _nodes(graph: Any) -> Iterator[Any]:
    for node in _items(graph.Nodes, graph.NodesLength()):
        yield node
        for attribute in _items(node.Attributes, node.AttributesLength()):
            if (inner := attribute.G()) is not None:
                yield from _nodes(inner)


def _write_operator(builder: Any, operator: Any) -> int:
    """An operator (``domain:name:version``) and its type constraints in order."""
    types = _items(operator.KernelTypeStrArgs, operator.KernelTypeStrArgsLength())
    ordered = sorted(types, key=lambda constraint: constraint.KernelTypeStr())
    written = _vector(builder, [_write_type(builder, one) for one in ordered])
    return _table(builder, [builder.CreateString(operator.OpId()), written])


def _write_type(builder: Any, constraint: Any) -> int:
    """A type constraint of a kernel and the arguments that decide it."""
    arguments = _items(constraint.Args, constraint.ArgsLength())
    written = _vector(builder, [_write_argument(builder, argument) for argument in arguments])
    return _table(builder, [builder.CreateString(constraint.KernelTypeStr()), written])


def _write_argument(builder: Any, argument: Any) -> int:
    """Whether it is an input or an output, and which."""
    builder.StartObject(2)
    builder.PrependInt8Slot(0, argument.ArgType(), 0)
    builder.PrependUint32Slot(1, argument.Index(), 0)
    return int(builder.EndObject())


def _table(builder: Any, fields: Sequence[int]) -> int:
    builder.StartObject(len(fields))
    for slot, offset in enumerate(fields):
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    return int(builder.EndObject())


def _vector(builder: Any, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _items(item: Callable[[int], Any], length: int) -> list[Any]:
    return [item(index) for index in range(length)]


def _version_position(root: Any) -> int:
    return int(root._tab.Indirect(root._tab.Pos + root._tab.Offset(_VERSION_FIELD)))


def _vtable_position(data: bytes, table: int) -> int:
    """Where the list of a table's fields lies: before the table, or at an equal table's further back."""
    return table - int.from_bytes(data[table : table + 4], "little", signed=True)


@contextmanager
def _quiet_logging() -> Iterator[None]:
    """ONNX Runtime's tools give the root logger a handler when they are imported; take it away again."""
    before = list(logging.root.handlers)
    yield
    logging.root.handlers[:] = before
