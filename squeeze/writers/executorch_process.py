"""The process that writes a ``.pte`` file: ExecuTorch's exporter prints, patches torch and keeps state of its own.

Called with a folder that holds ``model.onnx``; leaves ``model.pte`` and, beside it, which nodes XNNPACK did not take.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from squeeze.errors import SqueezeError
from squeeze.formats.onnx_file import read_onnx
from squeeze.formats.onnx_grid import take_grids
from squeeze.runtimes.executorch import ExecuTorchProgram
from squeeze.work import end_with_parent

SOURCE, FILE, REPORT = "model.onnx", "model.pte", "delegated.json"
XNNPACK = "XNNPACK"


def main(export: Callable[[Path], dict[str, Any]]) -> None:
    """Export the folder's model, and leave in ``delegated.json`` what ``export`` says, or what of it cannot be."""
    end_with_parent()
    warnings.simplefilter("ignore")  # untyped
    folder = Path(sys.argv[1])
    try:
        report = export(folder)
    except SqueezeError as error:
        report = {"error": str(error)}
    part = folder / f"{REPORT}.part"
    part.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
    part.replace(folder / REPORT)


def export(folder: Path) -> dict[str, Any]:
    """Write the file; gives the nodes by who runs them; raises ``ModelError`` where an operator has no form there."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    from squeeze.writers.as_torch.build import as_torch, examples

    torch.set_num_threads(1)
    model = read_onnx(folder / SOURCE)
    network = as_torch(model, take_grids(model.graph)).eval()
    program = torch.export.export(network, tuple(examples(model)), strict=False)
    names = torch.tensor(list(json.dumps({"inputs": network.input_names, "outputs": network.output_names}).encode()))
    lowered = to_edge_transform_and_lower(
        program, partitioner=[XnnpackPartitioner()], constant_methods={ExecuTorchProgram.NAMES: names.to(torch.uint8)}
    )
    layers = [place.name for place in network.places]
    kernels = dict(_undelegated(lowered.exported_program().graph, layers))
    (folder / FILE).write_bytes(lowered.to_executorch().buffer)
    kinds = {str(node.name): node.op_type for node in model.graph if str(node.name) in layers}
    return {"nodes": kinds, "left": kernels}


def _undelegated(graph: Any, names: list[str]) -> Iterator[tuple[str, str]]:
    """The nodes of the ONNX graph whose kernels are called outside every delegate, and these kernels."""
    for node in graph.nodes:
        if node.op != "call_function" or "delegate" in node.name or "getitem" in node.name:
            continue
        kernel = str(getattr(node.target, "__name__", node.target))
        for place in _places(node.meta.get("nn_module_stack") or {}):
            yield names[place], kernel


def _places(stack: Mapping[str, tuple[str, Any]]) -> Iterator[int]:
    for path, _ in stack.values():
        if path.startswith("node"):
            yield int(path.removeprefix("node").partition(".")[0])


if __name__ == "__main__":
    main(export)
