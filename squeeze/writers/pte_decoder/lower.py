"""From a language model to ExecuTorch's program: exported by torch, simplified, lowered to XNNPACK, repeated."""

from __future__ import annotations

import json
import logging
import traceback
from pathlib import Path
from typing import Any

import torch

from squeeze.errors import ModelError, first_line
from squeeze.models.language.language_model import LanguageModel
from squeeze.runtimes.executorch import ExecuTorchProgram
from squeeze.writers.pte_decoder.alike import Lowered, NotAlikeError
from squeeze.writers.pte_decoder.delegates import forget_tensors, sharing_tensors
from squeeze.writers.pte_decoder.job import Job
from squeeze.writers.pte_decoder.network import CachedDecoder, network
from squeeze.writers.pte_decoder.pattern import Pattern, pattern_of
from squeeze.writers.pte_decoder.repeat import repeated
from squeeze.writers.pte_decoder.simplify import simplify
from squeeze.writers.pte_decoder.stored import ProgramWeights, by_digest

TOKENS, POSITIONS, LOGITS = "tokens", "cache_position", "logits"
TORCH = str(Path(torch.__file__).parent)
LOG = logging.getLogger(__name__)


def lowered(model: LanguageModel, job: Job) -> Any:
    """ExecuTorch's ``EdgeProgramManager``: the program, in which XNNPACK's parts are graphs of its own.

    Raises:
        ModelError: a weight or an operator that .pte files cannot hold.
    """
    program = _lowered(model, job)
    forget_tensors(program.exported_program().graph_module)
    return program


def _lowered(model: LanguageModel, job: Job) -> Any:
    pattern = pattern_of(model)
    if pattern:
        try:
            return _grown(model, job, pattern)
        except NotAlikeError as error:
            LOG.warning("every block is exported, which takes its time: %s", error)
    return _to_edge(exported(network(model, job.context), job.chunk), constants(model, job))


def _grown(model: LanguageModel, job: Job, pattern: Pattern) -> Any:
    """From the blocks of a pattern; raises ``NotAlikeError`` where they do not repeat as it says."""
    from executorch.exir import EdgeProgramManager

    decoder = network(model, job.context, pattern)
    weights = by_digest(
        {name: value for name, value in decoder.state_dict().items() if pattern.round_of(name) is not None}
    )
    program = exported(decoder, job.chunk)
    methods = constants(model, job)
    del decoder
    few = _to_edge(program, {}).exported_program()
    whole = repeated(Lowered(few, pattern, weights), ProgramWeights(model))
    return EdgeProgramManager(whole, methods, _settings())


def _to_edge(program: torch.export.ExportedProgram, methods: dict[str, Any]) -> Any:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    simplify(program)
    with sharing_tensors():
        return to_edge_transform_and_lower(
            program,
            transform_passes=[_without_handles],
            partitioner=[XnnpackPartitioner()],
            constant_methods=methods,
            compile_config=_settings(),
        )


def _without_handles(module: Any) -> Any:
    """Take away the numbers by which a profiler would find operators: without them, like blocks have like graphs."""
    from torch.fx.passes.infra.pass_base import PassResult

    for node in module.graph.nodes:
        node.meta.pop("debug_handle", None)
    return PassResult(module, True)


def _settings() -> Any:
    """The graph is not checked again behind each step: the written file is read back and compared."""
    from executorch.exir import EdgeCompileConfig

    return EdgeCompileConfig(_check_ir_validity=False)


def write(program: Any, file: Path) -> None:
    from executorch.exir import ExecutorchBackendConfig

    with file.open("wb") as stream:
        program.to_executorch(ExecutorchBackendConfig(run_reinplace_pass=True)).write_to_file(stream)


def exported(decoder: CachedDecoder, chunk: int) -> torch.export.ExportedProgram:
    """The decoder for 1 to ``chunk`` tokens at a time; raises ``ModelError`` where its code cannot be exported."""
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
        raise ModelError(f"{kind} cannot be exported: {_raised(error)}") from error


def _raised(error: BaseException) -> str:
    """``ValueError: ... (modeling_llama.py:120)``: what torch made of the model's code, and of which line."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(TORCH)]
    last = frames[-1] if frames[1:] else traceback.extract_tb(error.__traceback__)[-1]  # the first one is ours
    return f"{type(error).__name__}: {first_line(error)} ({Path(last.filename).name}:{last.lineno})"


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
