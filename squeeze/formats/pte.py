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
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class StoredLayer:
    """A convolution or matrix product of an XNNPACK graph.

    Args:
        kind: XNNPACK's name of it.
        weight: As stored: ``[out, height, width, in]``, depthwise ``[1, height, width, out]``, a matrix ``[out, in]``.
        scale: float32 ``[out]``, or one; None: the weight is floats.
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


@dataclass(frozen=True)
class PteFile:
    """A ``.pte`` file.

    Args:
        operators: Kernels that are called outside every delegate, one name per call.
        graphs: XNNPACK's graphs in the order in which they are called, each with its constants by index.
    """

    operators: tuple[str, ...]
    graphs: tuple[tuple[dict[str, Any], dict[int, bytes]], ...]

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
    return PteFile(tuple(operators), tuple(graphs))


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
    dtype = np.int8 if kind in ("xnn_datatype_qint8", "xnn_datatype_qcint8") else DTYPES[kind]
    sizes = [int(size) for size in tensor["dims"]]
    return np.frombuffer(constants[int(tensor["constant_buffer_idx"])], dtype, int(np.prod(sizes))).reshape(sizes)


def _scale(value: Mapping[str, Any], constants: Mapping[int, bytes]) -> Array | None:
    params = value["xvalue_union"].get("quant_params")
    if params is None:
        return None
    if value["xvalue_union"]["quant_params_type"] == "PerTensorQuant":
        return np.array([params["scale"]], np.float32)
    if params.get("scale"):
        return np.array(params["scale"], np.float32)
    return np.frombuffer(constants[int(params["scale_buffer_idx"])], np.float32, int(params["num_scales"]))


def _per_tensor(value: Mapping[str, Any]) -> tuple[float, int] | None:
    union = value["xvalue_union"]
    if union.get("quant_params_type") != "PerTensorQuant":
        return None
    return float(union["quant_params"]["scale"]), int(union["quant_params"]["zero_point"])
