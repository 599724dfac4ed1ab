"""Does the clock call a model faster than itself? A/A comparisons on real networks, and a true 3 % that must be found.

Each comparison is what a run does for one row: fresh sessions of each in turn, held against the spread of the original
beside itself, which is measured again every five rows as by another run. Goal: at most 5 % of A/A comparisons are told
apart, and a true 3 % is found in 80 % on a quiet host. The 3 % is the same recording with each new time 3 % longer.

    python benchmarks/clock_noise.py [--real FOLDER] [--comparisons 13] [--models digits resnet20] [--hosts quiet]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from _inputs import Arguments, positive, run
from scipy.stats import binomtest

from squeeze.evaluate.latency import Clock, compare, paired, stopwatch
from squeeze.evaluate.metrics import Latency
from squeeze.models.base import Batch, InputSpec
from squeeze.models.onnx_model import OnnxModel
from squeeze.models.source import FactorySource
from squeeze.models.spec import ModelSpec
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.progress import Progress
from squeeze.run.builtin import trained_builtin
from squeeze.store import Store

PLANS = Path(__file__).resolve().parent.parent / "plans"
TRUE_EFFECT = 1.03
ROWS = 5  # that one measurement of the spread serves
KINDS = ("A/A", "true 3 %")


def main() -> None:
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_real()
    parser.add_argument("--comparisons", type=positive, default=13, help="of each model, batch size and host")
    parser.add_argument("--seconds", type=float, default=1.0, help="of alternating runs per comparison")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--batches", type=positive, nargs="+", default=[1, 32])
    parser.add_argument("--hosts", nargs="+", choices=["quiet", "busy"], default=["quiet", "busy"])
    options = parser.parse_args()
    sys.path.insert(0, str(PLANS))
    torch.set_num_threads(1)
    models = {name: MODELS[name](options.real) for name in options.models}
    for host in options.hosts:
        with another_process() if host == "busy" else nullcontext():
            measured(host, models, options)


@contextmanager
def another_process() -> Iterator[None]:
    """One that computes all the while."""
    noise = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        noise.kill()


def measured(host: str, models: dict[str, Timed], options: argparse.Namespace) -> None:
    headings = f"{'A/A told apart':>16} {'true 3 % found':>16} {'spread':>8} {'s each':>7}"
    print(f"{host + ' host':12} {'batch':>5} {'ms':>8} {headings}")
    totals = dict.fromkeys(KINDS, 0)
    for name, model in models.items():
        for batch in options.batches:
            line = compared(model, model.example(batch), options)
            counts = [f"{line[kind]:>10} of {options.comparisons}" for kind in KINDS]
            line_text = f"{counts[0]:>16} {counts[1]:>16} {line['spread']:8.2%} {line['s']:7.1f}"
            print(f"{name:12} {batch:5} {line['ms']:8.3f} {line_text}", flush=True)
            for kind in KINDS:
                totals[kind] += int(line[kind])
    count = options.comparisons * len(models) * len(options.batches)
    for kind, total in totals.items():
        low, high = binomtest(total, count).proportion_ci(method="wilson")
        print(f"{host} host, {kind}: {total} of {count} told apart, {total / count:.1%} [{low:.1%}, {high:.1%}]")


def compared(model: Timed, batch: Batch, options: argparse.Namespace) -> dict[str, float]:
    def opened() -> Clock:
        return stopwatch(model.onnx.reopened().runner(batch, 1))

    counts = dict.fromkeys(KINDS, 0)
    spreads: list[float] = []
    began, sessions = time.perf_counter(), Latency().sessions
    for comparison in range(options.comparisons):
        if comparison % ROWS == 0:
            spreads.append(compare(opened, opened, options.seconds, sessions).spread)
        blocks = compare(opened, opened, options.seconds, sessions)
        slower = replace(blocks, log_ratios=blocks.log_ratios + np.log(TRUE_EFFECT))
        counts["A/A"] += paired(blocks, spreads[-1]).told_apart
        counts["true 3 %"] += paired(slower, spreads[-1]).told_apart
    each = (time.perf_counter() - began) / (options.comparisons + len(spreads))
    return {**counts, "ms": blocks.old_ms, "spread": float(np.median(spreads)), "s": each}


class Timed:
    """A network as ONNX Runtime runs it, and batches of noise for it."""

    def __init__(self, model: TorchModel) -> None:
        self.model = model
        self.onnx: OnnxModel = ExportOnnx().run(model, Context())

    def example(self, batch: int) -> Batch:
        return self.model.example(batch)


def digits(_: Path) -> Timed:
    with TemporaryDirectory() as folder:
        return Timed(trained_builtin("digits-cnn", Store(Path(folder)), 1, Progress()))


def resnet20(real: Path) -> Timed:
    (weights,) = (real / "models/resnet_cifar10").glob("resnet20-*.th")
    spec = ModelSpec(module="cifar_resnet:resnet20", weights=str(weights))
    return Timed(spec.read(PLANS, {"image": (3, 32, 32)}))


def mobilenet(real: Path) -> Timed:
    return Timed(ModelSpec(hf=str(real / "models/mobilenet_v1_025_224")).read(PLANS, {"image": (3, 224, 224)}))


def minilm(_: Path) -> Timed:
    """Its shape; the clock does not care for the weights."""
    source = FactorySource("minilm:encoder", folder=str(PLANS))
    inputs = tuple(InputSpec(name, (-1,), "int64") for name in ("input_ids", "attention_mask"))
    return Timed(TorchModel(source.build(), source, inputs))


MODELS: dict[str, Callable[[Path], Timed]] = {
    "digits": digits,
    "resnet20": resnet20,
    "mobilenet": mobilenet,
    "minilm": minilm,
}

if __name__ == "__main__":
    run(main)
