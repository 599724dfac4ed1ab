"""Does the clock call a model faster than itself? A/A comparisons on real networks, and a true 3 % that must be found.

Each comparison is what a run does for one row: eight fresh sessions of each, and the original against itself. Goal: at
most 5 % of A/A comparisons are told apart, and a true 3 % is found in 80 % on a quiet host. The 3 % is made by a clock
that adds 3 % to each time it reads, session by session: what a slower model would show.

    python benchmarks/clock_noise.py [--real FOLDER] [--comparisons 25] [--models digits resnet20] [--busy]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from scipy.stats import binomtest

from squeeze.evaluate.latency import Clock, compare, paired, stopwatch
from squeeze.models.base import Batch, InputSpec
from squeeze.models.onnx_model import OnnxModel
from squeeze.models.source import FactorySource
from squeeze.models.spec import ModelSpec
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.progress import Progress
from squeeze.run.original import trained_builtin
from squeeze.store import Store

PLANS = Path(__file__).resolve().parent.parent / "plans"
TRUE_EFFECT = 1.03


def main() -> None:
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, default=here.parent.parent / "shared" / "real")
    parser.add_argument("--comparisons", type=int, default=25, help="of each model and batch size")
    parser.add_argument("--seconds", type=float, default=1.0, help="of alternating runs per comparison")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--busy", action="store_true", help="another process computes meanwhile")
    options = parser.parse_args()
    sys.path.insert(0, str(PLANS))
    torch.set_num_threads(1)
    noise = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if options.busy else None
    try:
        run(options)
    finally:
        if noise is not None:
            noise.kill()


def run(options: argparse.Namespace) -> None:
    total = {"A/A": [0, 0], "true 3 %": [0, 0]}
    print(
        f"{'model':10} {'batch':>5} {'ms':>8} {'A/A told apart':>16} {'true 3 % found':>16} {'spread':>8} {'s each':>7}"
    )
    for name in options.models:
        model = MODELS[name](options.real)
        for batch in options.batches:
            line = compared(model, model.example(batch), options)
            for kind in total:
                total[kind][0] += line[kind]
                total[kind][1] += options.comparisons
            counts = [f"{line[kind]:>10} of {options.comparisons}" for kind in total]
            shown = f"{counts[0]:>16} {counts[1]:>16} {line['spread']:8.2%} {line['s']:7.1f}"
            print(f"{name:10} {batch:5} {line['ms']:8.3f} {shown}", flush=True)
    for kind, (found, count) in total.items():
        low, high = binomtest(found, count).proportion_ci(method="wilson")
        print(f"{kind}: {found} of {count} told apart, {found / count:.1%} [{low:.1%}, {high:.1%}]")


def compared(model: Timed, batch: Batch, options: argparse.Namespace) -> dict[str, float]:
    def opened() -> Clock:
        return stopwatch(model.onnx.reopened().runner(batch, 1))

    def slower() -> Clock:
        clock = opened()
        return lambda: TRUE_EFFECT * clock()

    spread = compare(opened, opened, options.seconds).spread
    began, apart, found, ms = time.perf_counter(), 0, 0, 0.0
    for _ in range(options.comparisons):
        blocks = compare(opened, opened, options.seconds)
        apart += paired(blocks, spread).told_apart
        ms = blocks.old_ms
    each = (time.perf_counter() - began) / options.comparisons
    for _ in range(options.comparisons):
        found += paired(compare(slower, opened, options.seconds), spread).told_apart
    return {"A/A": apart, "true 3 %": found, "ms": ms, "spread": spread, "s": each}


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
    return Timed(spec.read(PLANS, (3, 32, 32)))


def mobilenet(real: Path) -> Timed:
    return Timed(ModelSpec(hf=str(real / "models/mobilenet_v1_025_224")).read(PLANS, (3, 224, 224)))


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
    main()
