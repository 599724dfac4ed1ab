"""Killed at any moment, the same command goes on and ends with the same package."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch

from squeeze.models.source import BuiltinSource
from squeeze.models.weights import write_weights
from squeeze.plan.plan import Plan
from squeeze.run import run

KILLS = 20
AT_ONCE = 2  # the plan runs on one thread
PLAN = """
model: {builtin: digits-cnn, weights: original.safetensors}
threads: 1
data:
  train: {builtin: digits, split: train, samples: 256}
  calibrate: {builtin: digits, split: calibrate, samples: 64}
  evaluate: {builtin: digits, split: evaluate, samples: 128}
metrics: [top1, kl, size, parameters]
passes:
  - {pass: prune_channels, macs: 50 %}
  - {pass: distill, epochs: 5, batch_size: 32}
  - {pass: export_onnx}
  - {pass: quantize_static}
targets: [{target: cpu}]
"""

PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(  # what a run imports on its way: forked children need not do it again
    [
        "squeeze.run",
        "sklearn.datasets",
        "torch_pruning",
        "torch._dynamo",
        "torch._refs",
        "torch.onnx._internal.exporter._core",
        "onnxscript.optimizer",
        "onnxscript.rewriter",
        "squeeze.passes.prune.prune_channels",
        "squeeze.passes.distill.distill",
        "squeeze.passes.export.export_onnx",
        "squeeze.passes.quantize.quantize_static",
    ]
)


def carry_out(folder: Path, name: str) -> None:
    """What a killed process was doing, and what it does again."""
    result = run(Plan.load(folder / "plan.yaml"), out=folder / f"out-{name}", store=folder / name)
    (folder / f"digest-{name}").write_text(result.packages["cpu"].digest)


def start(folder: Path, name: str) -> ForkServerProcess:
    process = PROCESSES.Process(target=carry_out, args=(folder, name))
    process.start()
    return process


def digest_of(folder: Path, name: str) -> str:
    process = start(folder, name)
    process.join(timeout=200)
    assert process.exitcode == 0
    return (folder / f"digest-{name}").read_text()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, float]:
    """The digest of a run that nobody killed, and how long it takes."""
    folder = tmp_path_factory.mktemp("kill")
    (folder / "plan.yaml").write_text(PLAN)
    torch.manual_seed(0)
    write_weights(BuiltinSource("digits-cnn").build().state_dict(), folder / "original.safetensors")
    digest_of(folder, "warm-up")
    began = time.monotonic()
    return folder, digest_of(folder, "undisturbed"), time.monotonic() - began


@pytest.mark.timeout(900)
def test_twenty_kills_at_random_moments_end_in_the_very_same_package(undisturbed: tuple[Path, str, float]) -> None:
    folder, digest, seconds = undisturbed
    moments = [random.Random(kill).uniform(0.02, 1.0) * seconds for kill in range(KILLS)]

    def killed_and_resumed(kill: int) -> tuple[int | None, str]:
        process = start(folder, f"killed-{kill}")
        time.sleep(moments[kill])
        process.kill()
        process.join()
        return process.exitcode, digest_of(folder, f"killed-{kill}")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        ends = list(pool.map(killed_and_resumed, range(KILLS)))
    assert {end for _, end in ends} == {digest}
    assert sum(code == -9 for code, _ in ends) >= KILLS * 3 // 4  # they really were killed on the way
