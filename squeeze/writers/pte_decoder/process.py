"""The process that writes a language model's ``.pte`` file; ExecuTorch's exporter keeps state of its own.

Called with a folder that holds ``job.json``; leaves ``model.pte`` and, beside it, what XNNPACK did not take.
"""

from __future__ import annotations

import json
import resource
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from squeeze.errors import ModelError, SqueezeError, first_line
from squeeze.models.language.language_model import LanguageModel
from squeeze.runtimes.executorch import ExecuTorchProgram
from squeeze.work import end_with_parent
from squeeze.writers.executorch_process import FILE, REPORT
from squeeze.writers.pte_decoder.job import JOB, Job
from squeeze.writers.pte_decoder.network import CachedDecoder, network

TOKENS, POSITIONS, LOGITS = "tokens", "cache_position", "logits"


def main() -> None:
    """Export the job's model, or say in ``delegated.json`` what of it cannot be."""
    end_with_parent()
    warnings.simplefilter("ignore")  # those of other packages
    folder = Path(sys.argv[1])
    try:
        report = export(Job(**json.loads((folder / JOB).read_text())), folder)
    except SqueezeError as error:
        report = {"error": str(error)}
    part = folder / f"{REPORT}.part"
    part.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
    part.replace(folder / REPORT)


def export(job: Job, folder: Path) -> dict[str, Any]:
    """Write the file; gives the operators by who runs them, and the most memory that it took.

    Raises:
        ModelError: a weight or an operator that .pte files cannot hold.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
        XnnpackDynamicallyQuantizedPartitioner,
        XnnpackPartitioner,
    )
    from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower

    torch.set_num_threads(1)
    model = LanguageModel(Path(job.model))
    decoder = network(model, job.context)
    partitioners = [XnnpackDynamicallyQuantizedPartitioner(), XnnpackPartitioner()]
    program, methods = exported(decoder, job.chunk), constants(model, job)
    del decoder
    lowered = to_edge_transform_and_lower(program, partitioner=partitioners, constant_methods=methods)
    del program
    delegated, kernels = _operators_by_runner(lowered.exported_program().graph)
    written = lowered.to_executorch(ExecutorchBackendConfig(run_reinplace_pass=True))
    with (folder / FILE).open("wb") as stream:
        written.write_to_file(stream)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"taken": delegated, "left": kernels, "peak_bytes": peak}


def exported(decoder: CachedDecoder, chunk: int) -> torch.export.ExportedProgram:
    """The decoder for 1 to ``chunk`` tokens at a time.

    Raises:
        ModelError: its code branches on values, or calls what cannot be exported.
    """
    import torch.fx.experimental._config as shapes

    shapes.backed_size_oblivious = True  # else strides of one token count as a case of their own
    several = min(3, chunk)
    example = torch.zeros(1, several, dtype=torch.int64), torch.arange(several)
    length = torch.export.Dim("length", min=1, max=chunk) if chunk > 1 else None
    dynamic = ({1: length}, {0: length}) if length else None
    kind = type(decoder.module).__name__
    try:
        with decoder.attending(), torch.no_grad():
            return torch.export.export(decoder, example, dynamic_shapes=dynamic, strict=False)
    except Exception as error:  # whatever torch makes of code that it cannot follow
        raise ModelError(f"{kind} cannot be exported: {first_line(error)}") from error


def constants(model: LanguageModel, job: Job) -> dict[str, Any]:
    """Methods that give constants: those that ExecuTorch's own runner of language models asks for, and ours."""
    own = {
        "inputs": [TOKENS, POSITIONS],
        "outputs": [LOGITS],
        "vocabulary": model.vocabulary,
        "context": job.context,
        "chunk": job.chunk,
        "integers": bool(model.grid),
    }
    record = torch.tensor(list(json.dumps(own).encode()), dtype=torch.uint8)
    runner: dict[str, Any] = {
        "get_vocab_size": model.vocabulary,
        "get_max_seq_len": job.chunk,
        "get_max_context_len": job.context,
        "use_kv_cache": True,
        "use_sdpa_with_kv_cache": False,
        "enable_dynamic_shape": job.chunk > 1,
    }
    ends: Any = model.skeleton.config.eos_token_id
    if ends is not None:
        runner["get_eos_ids"] = [int(end) for end in (ends if isinstance(ends, list) else [ends])]
    return {ExecuTorchProgram.NAMES: record, **runner}


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
    main()
