"""ONNX files: read without trusting them, written as the same bytes for the same graph.

Weights in a side file are read only from the folder of the model itself. What a graph computes is not
this module's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from squeeze.errors import ModelError, first_line
from squeeze.formats.onnx_bounds import require_bounded
from squeeze.formats.regular import require_regular

LARGEST_FILE_BYTES = 2**31 - 1  # protobuf's limit


def read_onnx(path: Path) -> ir.Model:
    """Read a ``.onnx`` file, weights in side files included, into memory.

    Raises:
        ModelError: Not there, truncated, no ONNX file, or with weights outside its own folder.
    """
    require_regular(path)
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    if (size := path.stat().st_size) > LARGEST_FILE_BYTES:
        raise ModelError(f"{path}: {size} bytes; one ONNX file holds 2 GiB at most")
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
        require_bounded(proto, where)
        model: ir.Model = ir.from_proto(proto)
    except ModelError:
        raise
    except Exception as error:  # protobuf and onnx_ir raise many kinds, all of which mean: these bytes are no model
        raise ModelError(f"{where}: not a readable ONNX file ({first_line(error, 120)}); truncated?") from error
    if not len(model.graph) or not model.graph.outputs or not model.opset_imports:
        raise ModelError(f"{where}: holds no ONNX graph with nodes and outputs; truncated?")
    for tensor in _tensors(model):
        if isinstance(tensor, ir.ExternalTensor) and folder is not None:
            tensor.base_dir = str(folder)
    return model


def onnx_bytes(model: ir.Model) -> bytes:
    """The file as it is stored: equal graphs give equal bytes; raises ``ModelError`` where it is too large."""
    try:
        total = sum(tensor.nbytes for tensor in _tensors(model))
    except (TypeError, ValueError) as error:  # a type without a width, a shape that is none
        raise ModelError(f"ONNX file: a weight has no size ({first_line(error)})") from None
    if total >= LARGEST_FILE_BYTES:
        raise ModelError(f"ONNX file: {total} bytes of weights do not fit into one file; 2 GiB is the most it holds")
    try:
        data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    except ir.serde.SerdeError as error:
        cause = first_line(error.__cause__ or error, 120)
        raise ModelError(f"ONNX file: holds something that cannot be written again ({cause})") from None
    return data


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
                value.const_value = _embedded(value.const_value, path)
    for node in model.graph.all_nodes():
        for name, attribute in list(node.attributes.items()):
            if not isinstance(attribute, ir.Attr):
                continue
            if isinstance(attribute.value, ir.ExternalTensor):
                node.attributes[name] = ir.AttrTensor(name, _embedded(attribute.value, path))
            elif attribute.type == ir.AttributeType.TENSORS:
                inside = [_embedded(t, path) if isinstance(t, ir.ExternalTensor) else t for t in attribute.value]
                node.attributes[name] = ir.AttrTensors(name, inside)


def _embedded(tensor: ir.ExternalTensor, path: Path) -> ir.TensorProtocol:
    try:
        return ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=tensor.name)
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = first_line(error, 120)
        raise ModelError(f"{path}: weight '{tensor.name}' in '{tensor.location}' cannot be read ({reason})") from None


def _require_inside(tensor: ir.ExternalTensor, path: Path) -> None:
    folder, side = path.parent.resolve(), _side_file(tensor, path)
    if not side.is_relative_to(folder):
        raise ModelError(f"{path}: weight '{tensor.name}' lies outside the model's folder ({tensor.location}); refused")
    if not side.is_file():
        raise ModelError(f"{path}: weight '{tensor.name}' is in '{tensor.location}', which is not beside the model")
    end = (tensor.offset or 0) + (tensor.length if tensor.length is not None else tensor.nbytes)
    if side.stat().st_size < end:
        raise ModelError(f"{side}: {side.stat().st_size} bytes, but weight '{tensor.name}' ends at {end}; truncated?")


def _side_file(tensor: ir.ExternalTensor, path: Path) -> Path:
    try:
        side = (path.parent / tensor.location).resolve()
        side.is_file()
    except (OSError, ValueError):  # a name that no file system holds
        raise ModelError(f"{path}: weight '{tensor.name}' names the side file {str(tensor.location)[:40]!a}") from None
    return side


def _name_nameless_nodes(graph: ir.Graph) -> None:
    """Every node gets a name, so that selectors and reports can speak of it."""
    for index, node in enumerate(graph):
        if not node.name:
            node.name = f"{node.op_type}_{index}"
