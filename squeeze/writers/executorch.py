"""ExecuTorch: an ONNX graph as a ``.pte`` program whose layers XNNPACK runs, float or on the graph's own integers.

What the file holds: a layer's integers and scales as they are, its bias as int32, activations as int8 (uint8 ``z``
becomes int8 ``z - 128``, the same real numbers). What it cannot: groups of weights and zero points of weights, which
``holds`` refuses; and a layer whose outputs stay floats, such as the last, rounds its inputs by a range that it takes
from each example itself, whatever range calibration found.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import ModelError
from squeeze.formats.grid_kind import GridKind
from squeeze.formats.onnx_grid import take_grids
from squeeze.formats.pte import read_pte
from squeeze.formats.pte_layer import StoredLayer
from squeeze.models.onnx_model import OnnxModel
from squeeze.runtimes.executorch import ExecuTorch
from squeeze.work import temporary_folder
from squeeze.writers.as_torch.build import holds
from squeeze.writers.base import Writer
from squeeze.writers.executorch_process import FILE, REPORT, SOURCE, XNNPACK
from squeeze.writers.proof import Equality, compared

PROCESS = "squeeze.writers.executorch_process"
PACKAGES = Path(__file__).parents[2]  # the folder that squeeze is imported from
PAIR = ("QuantizeLinear", "DequantizeLinear")  # no operators of the network
READER = "flatc, ExecuTorch's schemas"
AT_ONCE = 2**22  # weights that are compared together


class ExecuTorchWriter(Writer[OnnxModel]):
    """``model.pte`` for one example at a time, and ``delegated.json``: which nodes XNNPACK runs."""

    name = "executorch"
    extra: ClassVar[str | None] = "mobile"

    def holds(self, kind: GridKind) -> str | None:
        return holds(kind)

    def write(self, model: OnnxModel, folder: Path) -> Path:
        ExecuTorch.require_installed(model.source)
        with temporary_folder("executorch") as work:
            (work / SOURCE).write_bytes(model.data)
            run_process(PROCESS, work, model.source)
            for name in (REPORT, FILE):
                (folder / name).write_bytes((work / name).read_bytes())
        return folder / FILE

    def facts(self, model: OnnxModel, file: Path) -> dict[str, Any]:
        """Which share of operators and of multiplications the delegate took, and what it left, by name."""
        report = json.loads((file.parent / REPORT).read_text())
        macs = {layer.name: layer.macs or 0 for layer in model.layers()}
        kernels, nodes = report["left"], {name: kind for name, kind in report["nodes"].items() if kind not in PAIR}
        delegated = sum(count for name, count in macs.items() if name not in kernels)
        slow = {name: f"{nodes.get(name, 'constant')} by {kernel}" for name, kernel in kernels.items()}
        operators = [len(nodes.keys() - kernels.keys()), len(nodes)]
        multiplied = [delegated, sum(macs.values())]
        return {"delegated": {"to": XNNPACK, "operators": operators, "macs": multiplied, "left": slow}}

    def prove(self, model: OnnxModel, file: Path) -> Iterator[Equality]:
        """Each weight that is integers as ExecuTorch's own reader sees it: ``scale * q`` in float32, bit for bit."""
        grids = take_grids(model.copy_ir().graph)
        stored = [layer for layer in read_pte(file).layers() if layer.quantized]
        for name, grid in grids.items():
            yield nearest(name, grid, stored)


def run_process(module: str, work: Path, where: str) -> dict[str, Any]:
    """Run a process that writes a ``.pte`` file into ``work``; gives its report.

    Raises:
        ModelError: ``where`` has what such a file cannot hold, or the exporter failed, with its last line.
    """
    paths = os.pathsep.join(filter(None, (str(PACKAGES), os.environ.get("PYTHONPATH"))))
    own = {"PYTHONPATH": paths, "PYTHONHASHSEED": "0", "TMPDIR": str(work), "NO_COLOR": "1"}
    command = [sys.executable, "-m", module, str(work)]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=work,
        env=os.environ | own,
        text=True,
        errors="replace",
        check=False,
    )
    if not (work / REPORT).is_file():
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        last = lines[-1][:200] if lines else f"exit code {done.returncode}"
        raise ModelError(f"{where}: ExecuTorch cannot export the model ({last})")
    report: dict[str, Any] = json.loads((work / REPORT).read_text())
    if "error" in report:
        raise ModelError(f"{where}: {report['error']}")
    return report


def nearest(name: str, grid: QuantizedTensor, stored: list[StoredLayer]) -> Equality:
    """The file names no layers: take the unclaimed layer of fitting shape that differs least.

    Raises:
        ModelError: none fits.
    """
    best = None
    for layer in [layer for layer in stored if layer.shape == tuple(grid.q.shape)]:
        equality = _beside(name, grid, layer)
        if best is None or equality.differing < best[0].differing:
            best = equality, layer
        if equality.equal:
            break
    if best is None:
        raise ModelError(f"{name}: the .pte file holds no integers [{', '.join(map(str, grid.q.shape))}]")
    stored.remove(best[1])
    return best[0]


def _beside(name: str, grid: QuantizedTensor, layer: StoredLayer) -> Equality:
    """A weight and a layer, some rows at a time: as floats a head of many tokens takes more than the whole file."""
    rows, columns = grid.q.shape
    step, differing = max(1, AT_ONCE // columns), 0
    for start in range(0, rows, step):
        part = slice(start, start + step)
        own, as_read = grid.rows(part).dequantize(), torch.from_numpy(layer.real(part))
        differing += compared(name, "executorch", READER, own, as_read).differing
    return Equality(name, "executorch", READER, "float32", grid.q.numel(), differing)
