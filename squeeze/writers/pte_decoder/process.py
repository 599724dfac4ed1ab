"""The process that writes a language model's ``.pte`` file; ExecuTorch's exporter keeps state of its own.

Called with a folder that holds ``job.json``; leaves ``model.pte`` and, beside it, what XNNPACK did not take.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from squeeze.models.language.language_model import LanguageModel
from squeeze.peak import peak_memory_bytes
from squeeze.writers.executorch_process import FILE, main
from squeeze.writers.pte_decoder.job import JOB, Job
from squeeze.writers.pte_decoder.lower import lowered, write


def export(folder: Path) -> dict[str, Any]:
    """Write the file; gives the operators by who runs them, and the most memory that it took."""
    torch.set_num_threads(1)
    job = Job(**json.loads((folder / JOB).read_text()))
    model = LanguageModel(Path(job.model))
    program = lowered(model, job)
    delegated, kernels = _operators_by_runner(program.exported_program().graph)
    write(program, folder / FILE)
    return {"taken": delegated, "left": kernels, "peak_bytes": peak_memory_bytes()}


def _operators_by_runner(graph: Any) -> tuple[dict[str, int], dict[str, list[str]]]:
    """How often XNNPACK runs each operator, and in which modules of the model it leaves which to other kernels."""
    delegated: dict[str, int] = {}
    kernels: dict[str, list[str]] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            inside = getattr(graph.owning_module, node.target).original_module.graph
            for name in filter(None, map(_operator, inside.nodes)):
                delegated[name] = delegated.get(name, 0) + 1
        elif kernel := _operator(node):
            kernels.setdefault(kernel, []).append(_place(node))
    return delegated, kernels


def _operator(node: Any) -> str | None:
    """The name of what a node computes; None of those that only round, move or count."""
    if node.op != "call_function":
        return None
    name = str(getattr(node.target, "__name__", node.target))
    quiet = ("quantize", "choose_qparams", "getitem", "delegate", "sym_size", "view_copy", "mul")
    return None if name.startswith(quiet) or any(part in name for part in quiet[:5]) else name


def _place(node: Any) -> str:
    """The innermost module of the model that a node comes from."""
    paths = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    return str(paths[-1]).removeprefix("module.") if paths else ""


if __name__ == "__main__":
    main(export)
