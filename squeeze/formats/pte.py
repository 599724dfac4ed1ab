"""What lies in an ExecuTorch file (``.pte``): its instructions, and the graphs that XNNPACK runs, with their constants.

Read by ``flatc`` and the schemas that ExecuTorch ships, not by code of ours and not by the code that wrote the file.
Constants stay in the file until they are asked for.
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from squeeze.errors import ModelError, first_line
from squeeze.formats.file_part import FilePart
from squeeze.formats.pte_layer import WEIGHTED, StoredLayer, tensor
from squeeze.work import temporary_folder

PROGRAM, XNNPACK = "schema/program.fbs", "backends/xnnpack/serialization/schema.fbs"
FLATC = "data/bin/flatc"
EXTENDED, XNN_HEADER = b"eh00", b"XH00"
HEADER = 32  # bytes: of the file, whose sizes are the last 16; of an XNNPACK graph likewise
SECONDS = 120.0
ENDLESS = re.compile(r"(?<=: )-?inf\b")  # flatc writes an infinite bound like this; the sign does not matter here


@dataclass(frozen=True)
class PteFile:
    """A ``.pte`` file.

    Args:
        operators: Kernels that are called outside every delegate, one name per call.
        graphs: XNNPACK's graphs in the order in which they are called, each with its constants by index.
        constants: What those other kernels read.
    """

    operators: tuple[str, ...]
    graphs: tuple[tuple[dict[str, Any], dict[int, FilePart]], ...]
    constants: tuple[FilePart, ...] = ()

    def layers(self) -> Iterator[StoredLayer]:
        """All layers with weights that XNNPACK runs."""
        for graph, constants in self.graphs:
            values = {int(tensor(value)["id_out"]): value for value in graph["xvalues"]}
            for node in graph["xnodes"]:
                if node["xnode_union_type"] in WEIGHTED:
                    yield StoredLayer.of(node, values, constants)


def read_pte(file: Path) -> PteFile:
    """Read a file of ExecuTorch's; raises ``ModelError`` where it is none, or damaged, or ExecuTorch is absent."""
    try:
        return _read(FilePart(file, 0, file.stat().st_size))
    except (KeyError, IndexError, ValueError, TypeError, struct.error, subprocess.SubprocessError) as error:
        raise ModelError(f"{file}: not a whole ExecuTorch program ({first_line(error)})") from error


def _read(whole: FilePart) -> PteFile:
    header = whole.read(size=HEADER)
    if header[8:12] != EXTENDED:
        raise ValueError("no extended header")
    size, base = struct.unpack("<QQ", header[16:32])
    program = _as_json(whole.read(size=size), PROGRAM)
    segments = [_segment(whole, base + int(part["offset"]), int(part["size"])) for part in program["segments"]]
    named_data = {part["key"]: segments[part["segment_index"]] for part in program.get("named_data") or ()}
    plan = program["execution_plan"][0]
    operators, graphs = [], []
    for instruction in plan["chains"][0]["instructions"]:
        arguments = instruction["instr_args"]
        if instruction["instr_args_type"] == "KernelCall":
            operators.append(str(plan["operators"][arguments["op_index"]]["name"]))
        elif instruction["instr_args_type"] == "DelegateCall":
            delegate = plan["delegates"][arguments["delegate_index"]]
            graphs.append(_graph(segments[_segment_of(delegate["processed"])], named_data))
    return PteFile(tuple(operators), tuple(graphs), _constants(program, segments))


def _segment(whole: FilePart, offset: int, size: int) -> FilePart:
    if offset + size > whole.size:
        raise ValueError(f"it ends {offset + size - whole.size} bytes before a part of it does")
    return whole.within(offset, size)


def _segment_of(reference: Mapping[str, Any]) -> int:
    if reference["location"] != "SEGMENT":
        raise ValueError("a delegate inside the program, which ExecuTorch's exporter puts behind it")
    return int(reference["index"])


def _constants(program: Mapping[str, Any], segments: Sequence[FilePart]) -> tuple[FilePart, ...]:
    """Each reaches from its offset to the next offset, padding included."""
    part = program.get("constant_segment") or {}
    offsets = [int(offset) for offset in part.get("offsets") or ()]
    if not offsets:
        return ()
    segment = segments[int(part["segment_index"])]
    ends = sorted({*offsets, segment.size})
    starts = [start for start in offsets if start < segment.size]
    return tuple(segment.within(start, min(end for end in ends if end > start) - start) for start in starts)


def _graph(payload: FilePart, named_data: Mapping[str, FilePart]) -> tuple[dict[str, Any], dict[int, FilePart]]:
    header = payload.read(size=HEADER)
    if header[4:8] != XNN_HEADER:
        raise ValueError("a delegate that is not XNNPACK's")
    start, size, constants = struct.unpack("<III", header[10:22])
    graph = _as_json(payload.read(start, size), XNNPACK)
    data = {}
    for index, part in enumerate(graph.get("constant_data") or ()):
        key = part.get("named_key")
        size, offset = int(part["size"]), constants + int(part["offset"])
        data[index] = named_data[key] if key else payload.within(offset, size)
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
