"""Which files beside an ONNX model hold its weights, read without opening them.

Whether those files may be opened is for the caller to judge: see ``unsafe_location``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from squeeze.errors import ModelError
from squeeze.formats.regular import require_regular


def external_files(path: Path) -> tuple[str, ...]:
    """The locations that the model's tensors name, wherever they hide (subgraphs, functions, attributes).

    Raises:
        ModelError: No ONNX file.
    """
    import onnx

    require_regular(path)
    try:
        proto = onnx.ModelProto.FromString(path.read_bytes())
    except Exception as error:  # protobuf's DecodeError is not part of its public Python API
        raise ModelError(f"{path}: not a readable ONNX file; truncated?") from error
    external = (tensor for tensor in every_tensor(proto) if tensor.data_location == tensor.EXTERNAL)
    return tuple(sorted(set(map(_location, external))))


def unsafe_location(location: str) -> bool:
    """True where a location is anything but a plain relative path below the model's folder."""
    parts = PurePosixPath(location).parts
    return not parts or location.startswith("/") or ".." in parts or "\\" in location or ":" in location


def _location(tensor: Any) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def every_tensor(message: Any) -> Iterator[Any]:
    """Every ``TensorProto`` below a protobuf message."""
    if message.DESCRIPTOR.full_name == "onnx.TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if hasattr(value, "__len__") else (value,):  # a repeated field has a length
                yield from every_tensor(part)
