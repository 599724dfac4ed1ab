"""ONNX files: read without trusting them, written as the same bytes for the same graph.

Weights in a side file are read only from the folder of the model itself. What a graph computes is not
this module's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from squeeze.errors import ModelError

LARGEST_FILE_BYTES = 2**31 - 1  # protobuf's limit


def read_onnx(path: Path) -> ir.Model:
    """Read a ``.onnx`` file, weights in side files included, into memory.

    Raises:
        ModelError: Not there, truncated, no ONNX file, or with weights outside its own folder.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    model = parse_onnx(path.read_bytes(), str(path), path.parent)
    _embed_external_weights(model, path)
    _name_nameless_nodes(model.graph)
    return model


def parse_onnx(data: bytes, where: str, folder: Path | None = None) -> ir.Model:
    """The graph behind the bytes of an ONNX file; ``where`` names them in an error."""
    import onnx

    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
        model: ir.Model = ir.from_proto(proto)
    except Exception as error:  # protobuf and onnx_ir raise many kinds, all of which mean: these bytes are no model
        raise ModelError(f"{where}: not a readable ONNX file ({_first_line(error)}); truncated?") from error
    if not len(model.graph) or not model.graph.outputs or not model.opset_imports:
        raise ModelError(f"{where}: holds no ONNX graph with nodes and outputs; truncated?")
    for tensor in _tensors(model):
        if isinstance(tensor, ir.ExternalTensor) and folder is not None:
            tensor.base_dir = str(folder)
    return model


def onnx_bytes(model: ir.Model) -> bytes:
    """The file as it is stored: equal graphs give equal bytes.

    Raises:
        ModelError: Larger than one ONNX file may be.
    """
    total = sum(tensor.nbytes for tensor in _tensors(model))
    if total >= LARGEST_FILE_BYTES:
        raise ModelError(f"ONNX file: {total} bytes of weights do not fit into one file; 2 GiB is the most it holds")
    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return data


def copy_onnx(model: ir.Model) -> ir.Model:
    """The same graph, free to be changed; the weights are shared, since tensors are never changed in place."""
    return model.clone()


def _tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
    for node in model.graph.all_nodes():
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute, ir.Attr):
                yield attribute.value
            elif attribute.type == ir.AttributeType.TENSORS and isinstance(attribute, ir.Attr):
                yield from attribute.value


def _embed_external_weights(model: ir.Model, path: Path) -> None:
    for tensor in _tensors(model):
        if isinstance(tensor, ir.ExternalTensor):
            _require_inside(tensor, path)
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = ir.Tensor(value.const_value.numpy().copy(), name=value.name)
    for node in model.graph.all_nodes():
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute.value, ir.ExternalTensor):
                node.attributes[name] = ir.AttrTensor(name, ir.Tensor(attribute.value.numpy().copy()))


def _require_inside(tensor: ir.ExternalTensor, path: Path) -> None:
    folder, side = path.parent.resolve(), (path.parent / tensor.location).resolve()
    if not side.is_relative_to(folder):
        raise ModelError(f"{path}: weight '{tensor.name}' lies outside the model's folder ({tensor.location}); refused")
    if not side.is_file():
        raise ModelError(f"{path}: weight '{tensor.name}' is in '{tensor.location}', which is not beside the model")
    end = (tensor.offset or 0) + (tensor.length if tensor.length is not None else tensor.nbytes)
    if side.stat().st_size < end:
        raise ModelError(f"{side}: {side.stat().st_size} bytes, but weight '{tensor.name}' ends at {end}; truncated?")


def _name_nameless_nodes(graph: ir.Graph) -> None:
    """Every node gets a name, so that selectors and reports can speak of it."""
    for index, node in enumerate(graph):
        if not node.name:
            node.name = f"{node.op_type}_{index}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
