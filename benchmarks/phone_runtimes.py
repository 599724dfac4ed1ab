"""One float network in every phone runtime that is installed here: latency beside ONNX Runtime's.

    python benchmarks/phone_runtimes.py [--real FOLDER] [--seconds 5] [--model NAME ...]

ResNet-20 and MobileNetV1 from one export: ONNX Runtime, LiteRT and ExecuTorch by our writers, MNN by its own converter
(``pip install --no-deps MNN``; its ``mnnquant``, which is not used, installs a logging package by pip when it starts).
What is not installed is left out by name. Batch 1, one thread, each alternating with ONNX Runtime: ratios of medians
with 95 % intervals, below 1 is faster than it; and how far the outputs are from its, as a share of the largest. This
machine's processor decides: on ARM other kernels run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from _inputs import Arguments, run
from int8_vs_onnxruntime import MODELS, PLANS, SESSIONS

from squeeze import registry
from squeeze.api import load
from squeeze.evaluate.latency import compare, paired, stopwatch
from squeeze.models.artifact import Artifact
from squeeze.models.base import Batch
from squeeze.models.onnx_model import OnnxModel
from squeeze.passes.base import Context
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.plan.check import example_shapes

OURS = ("litert", "executorch")  # runtimes and writers of one name
Opens = Callable[[], Callable[[], object]]  # a fresh session, ready to run the one example


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    for name in options.model:
        plan = load(PLANS / MODELS[name], [], {"real": str(options.real)})
        model = ExportOnnx().run(plan.model.read(plan.root, example_shapes(plan)), Context(threads=1))
        image = plan.open_data("evaluate").batch(np.arange(1))
        print(f"\n{name}, float\n{'':14}{'x ONNX Runtime':24}{'median ms':>10}{'outputs':>10}")
        compare_all(model, image, options.seconds)


def compare_all(model: OnnxModel, image: Batch, seconds: float) -> None:
    """A line per runtime."""
    reference = model.predict(image).numpy()
    with tempfile.TemporaryDirectory() as folder:
        for runtime, opens, output in files(model, image, Path(folder)):
            print(line(runtime, opens, lambda: model.reopened().runner(image, 1), seconds), end="")
            print(f"{np.abs(output - reference).max() / np.abs(reference).max():10.1e}", flush=True)


def arguments() -> argparse.Namespace:
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_real()
    parser.add_argument("--seconds", type=float, default=5.0, help="of stopwatch per file")
    parser.add_argument("--model", nargs="+", choices=list(MODELS), default=list(MODELS))
    return parser.parse_args()


def line(runtime: str, opens: Opens, reference: Opens, seconds: float) -> str:
    new, old = (lambda one=one: stopwatch(one()) for one in (opens, reference))
    timing = paired(compare(new, old, seconds, SESSIONS), compare(old, old, seconds, SESSIONS).spread)
    ratio = f"{timing.ratio:.2f} [{timing.interval.low:.2f}, {timing.interval.high:.2f}]"
    return f"{runtime:14}{ratio:24}{timing.new_ms:10.3f}"


def files(model: OnnxModel, image: Batch, folder: Path) -> Iterator[tuple[str, Opens, np.ndarray]]:
    """By runtime, what opens its file, and its outputs for the one image."""
    for name in OURS:
        if (missing := registry.load("runtimes", name).absent()) is not None:
            print(f"{name}: left out ({missing})")
            continue
        (place := folder / name).mkdir()
        artifact = Artifact(registry.load("writers", name)().write(model, place), runtime=name)
        artifact.threads = 1
        yield name, lambda artifact=artifact: artifact.reopened().runner(image, 1), artifact.predict(image).numpy()
    if find_spec("MNN") is None:
        print("MNN: left out (pip install --no-deps MNN)")
        return
    file = by_mnn(model, folder)
    call = opened_by_mnn(file, image)  # its arrays end with it
    yield "MNN", lambda: opened_by_mnn(file, image), np.array(call())


def by_mnn(model: OnnxModel, folder: Path) -> Path:
    (folder / "model.onnx").write_bytes(model.data)
    tool = Path(sys.executable).with_name("mnnconvert")
    names = ["--modelFile", str(folder / "model.onnx"), "--MNNModel", str(folder / "model.mnn"), "--bizCode", "it"]
    subprocess.run([str(tool), "-f", "ONNX", *names], check=True, capture_output=True)
    return folder / "model.mnn"


def opened_by_mnn(file: Path, image: Batch) -> Callable[[], object]:
    """On one thread; "normal" is float32 on this processor."""
    import MNN.nn
    import MNN.numpy

    settings = {"precision": "normal", "backend": "CPU", "numThread": 1}
    runtime = MNN.nn.create_runtime_manager((settings,))
    module = MNN.nn.load_module_from_file(str(file), ["image"], ["logits"], runtime_manager=runtime)
    pixels = image.image.numpy()
    return lambda: module.forward([MNN.numpy.array(pixels)])[0].read()


if __name__ == "__main__":
    run(main)
