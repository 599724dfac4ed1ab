"""Processes that carry a plan out, are killed at random moments and started again."""

from __future__ import annotations

import hashlib
import random
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from squeeze.api import load
from squeeze.models.language.language_model import LanguageModel
from squeeze.run import Run, run

AT_ONCE = 2  # the plans run on one thread
KILLED = -9

PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(  # what a run imports on its way: forked children need not do it again
    [
        "squeeze.run.straight",
        "sklearn.datasets",
        "networkx",
        "sympy.tensor.tensor",
        "torch_pruning",
        "torch._dynamo",
        "torch._functorch.aot_autograd",
        "torch._inductor.codecache",
        "torch._refs",
        "torch.export._trace",
        "torch.onnx._internal.exporter._compat",
        "torch.onnx._internal.exporter._torchlib.ops",
        "onnxscript.function_libs.torch_lib.ops",
        "onnxscript.optimizer",
        "onnxscript.rewriter.onnx_fusions",
        "transformers.convert_slow_tokenizer",
        "transformers.models.llama.modeling_llama",
        "squeeze.passes.prune.prune_channels",
        "squeeze.passes.distill.distill",
        "squeeze.training.helping",
        "squeeze.training.meeting",
        "squeeze.training.synced_norm",
        "squeeze.passes.export.export_onnx",
        "squeeze.passes.quantize.quantize_static",
        "squeeze.passes.quantize.gptq",
        "squeeze.runtimes.ort",
        "squeeze.targets.cpu",
    ]
)


def carry_out(folder: Path, name: str) -> None:
    """What a killed process was doing, and what it does again."""
    result = run(load(folder / "plan.yaml"), out=folder / f"out-{name}", store=folder / name)
    (folder / f"digest-{name}").write_text(digest_of(result))


def digest_of(result: Run) -> str:
    """The package's digest, or that of a language model's shards."""
    if result.packages:
        return result.packages["cpu"].digest
    model = result.models[None]
    assert isinstance(model, LanguageModel)
    shards = sorted(model.folder.glob("*.safetensors"))
    return hashlib.sha256(b"".join(hashlib.sha256(shard.read_bytes()).digest() for shard in shards)).hexdigest()


def start(folder: Path, name: str) -> ForkServerProcess:
    """Begin, in a process of its own."""
    process = PROCESSES.Process(target=carry_out, args=(folder, name))
    process.start()
    return process


def finished(folder: Path, name: str) -> str:
    """Carry the plan out, undisturbed; gives the digest."""
    process = start(folder, name)
    process.join(timeout=300)
    assert process.exitcode == 0
    return (folder / f"digest-{name}").read_text()


def undisturbed(folder: Path) -> tuple[str, float]:
    """The digest of a run that nobody killed, and how long it takes."""
    imports = PROCESSES.Process(target=int)  # begins when the server has imported everything
    imports.start()
    imports.join()
    began = time.monotonic()
    return finished(folder, "undisturbed"), time.monotonic() - began


def kill_and_resume(folder: Path, seconds: float, kills: int) -> list[tuple[int | None, str]]:
    """Kill so many runs at random moments; for each, how it ended and the digest when it was started again."""
    moments = [(kill + random.Random(kill).random()) / kills * seconds for kill in range(kills)]  # one in each part

    def one(kill: int) -> tuple[int | None, str]:
        process = start(folder, f"killed-{kill}")
        time.sleep(moments[kill])
        process.kill()
        process.join()
        return process.exitcode, finished(folder, f"killed-{kill}")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(one, range(kills)))
