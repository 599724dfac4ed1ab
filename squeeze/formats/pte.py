"""What lies in an ExecuTorch file (``.pte``): its instructions, and the graphs that XNNPACK runs, with their constants.

Read by ``flatc`` and the schemas that ExecuTorch ships, not by code of ours and not by the code that wrote the file.
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from squeeze.errors import ModelError, first_line
from squeeze.work import temporary_folder

PROGRAM, XNNPACK = "schema/program.fbs", "backends/xnnpack/serialization/schema.fbs"
FLATC = "data/bin/flatc"
EXTENDED, XNN_HEADER = b"eh00", b"XH00"
WEIGHTED = ("XNNConv2d", "XNNDepthwiseConv2d", "XNNFullyConnected")
SECONDS = 120.0
ENDLESS = re.compile(r"(?<=: )-?inf\b")  # flatc writes an infinite bound like this; the sign does not matter here
NARROW = ("xnn_datatype_qcint4", "xnn_datatype_qbint4")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class StoredLayer:
    """A convolution or matrix product of an XNNPACK graph.

    Args:
        kind: XNNPACK's name of it.
        weight: As stored: ``[out, height, width, in]``, depthwise ``[1, height, width, out]``, a matrix ``[out, in]``.
        scale: float32 ``[out]``, ``[out, groups]``, or one; None: the weight is floats.
        bias: int32 or float32 ``[out]``.
        source: Scale, to the six decimals that flatc writes, and zero point of what goes in; None: floats, or a range
            of its own each time.
    """

    kind: str
    weight: Array
    scale: Array | None
    bias: Array | None
    source: tuple[float, int] | None

    def matrix(self) -> Array:
        """The weight as ``[out, in per group x height x width]``, which is how a grid has it."""
        if self.kind == "XNNDepthwiseConv2d":
            return np.ascontiguousarray(self.weight[0].transpose(2, 0, 1)).reshape(self.weight.shape[3], -1)
        if self.weight.ndim == 4:
            return np.ascontiguousarray(self.weight.transpose(0, 3, 1, 2)).reshape(len(self.weight), -1)
        return self.weight

    def real(self) -> Array:
        """float32 ``[out, in]``: scale times integer; the floats where it has no scale."""
        matrix = self.matrix()
        if self.scale is None:
            return matrix
        groups = self.scale.shape[1] if self.scale.ndim == 2 else 1
        grouped = matrix.reshape(len(matrix), groups, -1).astype(np.float32)
        return (self.scale.reshape(-1, groups, 1) * grouped).reshape(matrix.shape)


@dataclass(frozen=True)
class PteFile:
    """A ``.pte`` file.

    Args:
        operators: Kernels that are called outside every delegate, one name per call.
        graphs: XNNPACK's graphs in the order in which they are called, each with its constants by index.
        constants: What those other kernels read.
    """

    operators: tuple[str, ...]
    graphs: tuple[tuple[dict[str, Any], dict[int, bytes]], ...]
    constants: tuple[bytes, ...] = ()

    def layers(self) -> Iterator[StoredLayer]:
        """All layers with weights that XNNPACK runs."""
        for graph, constants in self.graphs:
            values = {int(_tensor(value)["id_out"]): value for value in graph["xvalues"]}
            for node in graph["xnodes"]:
                if node["xnode_union_type"] in WEIGHTED:
                    yield _layer(node, values, constants)


def read_pte(file: Path) -> PteFile:
    """Read a file that ExecuTorch wrote.

    Raises:
        ModelError: it is none, or damaged; or ExecuTorch is not installed.
    """
    data = file.read_bytes()
    try:
        return _read(data)
    except (KeyError, IndexError, ValueError, TypeError, struct.error, subprocess.SubprocessError) as error:
        raise ModelError(f"{file}: not a whole ExecuTorch program ({first_line(error)})") from error


def _read(data: bytes) -> PteFile:
    if data[8:12] != EXTENDED:
        raise ValueError("no extended header")
    size, base = struct.unpack("<QQ", data[16:32])
    program = _as_json(data[:size], PROGRAM)
    segments = [data[base + part["offset"] : base + part["offset"] + part["size"]] for part in program["segments"]]
    named_data = {part["key"]: segments[part["segment_index"]] for part in program.get("named_data") or ()}
    plan = program["execution_plan"][0]
    operators, graphs = [], []
    for instruction in plan["chains"][0]["instructions"]:
        arguments = instruction["instr_args"]
        if instruction["instr_args_type"] == "KernelCall":
            operators.append(str(plan["operators"][arguments["op_index"]]["name"]))
        elif instruction["instr_args_type"] == "DelegateCall":
            delegate = plan["delegates"][arguments["delegate_index"]]
            graphs.append(_graph(_processed(delegate["processed"], program, segments), named_data))
    return PteFile(tuple(operators), tuple(graphs), _constants(program, segments))


def _constants(program: Mapping[str, Any], segments: list[bytes]) -> tuple[bytes, ...]:
    """Each reaches from its offset to the next offset, padding included."""
    part = program.get("constant_segment") or {}
    offsets = [int(offset) for offset in part.get("offsets") or ()]
    if not offsets:
        return ()
    segment = segments[int(part["segment_index"])]
    ends = sorted({*offsets, len(segment)})
    return tuple(segment[start : min(end for end in ends if end > start)] for start in offsets if start < len(segment))


def _processed(reference: Mapping[str, Any], program: Mapping[str, Any], segments: list[bytes]) -> bytes:
    index = int(reference["index"])
    if reference["location"] == "SEGMENT":
        return segments[index]
    return bytes(program["backend_delegate_data"][index]["data"])


def _graph(payload: bytes, named_data: Mapping[str, bytes]) -> tuple[dict[str, Any], dict[int, bytes]]:
    if payload[4:8] != XNN_HEADER:
        raise ValueError("a delegate that is not XNNPACK's")
    start, size, constants = struct.unpack("<III", payload[10:22])
    graph = _as_json(payload[start : start + size], XNNPACK)
    data = {}
    for index, part in enumerate(graph.get("constant_data") or ()):
        place = constants + int(part["offset"])
        key = part.get("named_key")
        data[index] = named_data[key] if key else payload[place : place + int(part["size"])]
    return graph, data


def _as_json(data: bytes, schema: str) -> dict[str, Any]:
    """What flatc makes of it."""
    spec = find_spec("executorch")
    if spec is None or not spec.submodule_search_locations:
        raise ModelError("reading a .pte file needs executorch: pip install 'squeeze[mobile]'")
    root = Path(next(iter(spec.submodule_search_locations)))
    with temporary_folder("flatc") as folder:
        (folder / "read.bin").write_bytes(data)
        options: list[str | Path] = ["--json", "--strict-json", "--defaults-json", "--raw-binary", "-o", folder]
        command: list[str | Path] = [root / FLATC, *options, root / schema, "--", folder / "read.bin"]
        subprocess.run(command, capture_output=True, check=True, timeout=SECONDS)
        parsed: dict[str, Any] = json.loads(ENDLESS.sub("Infinity", (folder / "read.json").read_text()))
        return parsed


def _tensor(value: Mapping[str, Any]) -> Mapping[str, Any]:
    union = value["xvalue_union"]
    tensor: Mapping[str, Any] = union.get("tensor_value", union)
    return tensor


def _layer(
    node: Mapping[str, Any], values: Mapping[int, Mapping[str, Any]], constants: dict[int, bytes]
) -> StoredLayer:
    union = node["xnode_union"]
    weight, bias = (values.get(int(union[part])) for part in ("filter_id", "bias_id"))
    assert weight is not None
    return StoredLayer(
        kind=node["xnode_union_type"],
        weight=_array(weight, constants),
        scale=_scale(weight, constants),
        bias=None if bias is None else _array(bias, constants),
        source=_per_tensor(values[int(union["input1_id"])]),
    )


DTYPES = {"xnn_datatype_fp32": np.float32, "xnn_datatype_qint32": np.int32, "xnn_datatype_qcint32": np.int32}


def _array(value: Mapping[str, Any], constants: Mapping[int, bytes]) -> Array:
    tensor = _tensor(value)
    kind = str(tensor["datatype"])
    sizes = [int(size) for size in tensor["dims"]]
    stored = constants[int(tensor["constant_buffer_idx"])]
    if kind in NARROW:
        return _nibbles(stored, sizes)
    dtype = np.int8 if kind in ("xnn_datatype_qint8", "xnn_datatype_qcint8") else DTYPES[kind]
    return np.frombuffer(stored, dtype, int(np.prod(sizes))).reshape(sizes)


def _nibbles(stored: bytes, sizes: list[int]) -> Array:
    """int8 ``[out, in]`` of 4 bits, 8 more than they are, the first of two in the low half of a byte."""
    rows, columns = sizes
    pairs = np.frombuffer(stored, np.uint8, rows * (-(-columns // 2))).reshape(rows, -1)
    both = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(rows, -1)[:, :columns]
    return both.astype(np.int8) - 8


def _scale(value: Mapping[str, Any], constants: Mapping[int, bytes]) -> Array | None:
    params = value["xvalue_union"].get("quant_params")
    if params is None:
        return None
    if value["xvalue_union"]["quant_params_type"] == "PerTensorQuant":
        return np.array([params["scale"]], np.float32)
    if params.get("scale"):
        return np.array(params["scale"], np.float32)
    stored, count = constants[int(params["scale_buffer_idx"])], int(params["num_scales"])
    if value["xvalue_union"]["quant_params_type"] != "PerChannelGroupQuant":
        return np.frombuffer(stored, np.float32, count)
    upper = np.frombuffer(stored, np.uint16, count).astype(np.uint32) << 16  # bfloat16
    return upper.view(np.float32).reshape(int(_tensor(value)["dims"][0]), -1)


def _per_tensor(value: Mapping[str, Any]) -> tuple[float, int] | None:
    union = value["xvalue_union"]
    if union.get("quant_params_type") != "PerTensorQuant":
        return None
    return float(union["quant_params"]["scale"]), int(union["quant_params"]["zero_point"])
