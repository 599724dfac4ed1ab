"""Int8 on ResNet-20 and MobileNetV1: ONNX Runtime's own quantizers against Squeeze, same export, images and runtime.

    python benchmarks/int8_vs_onnxruntime.py [--real FOLDER] [--splits 3] [--seconds 5] [--model NAME ...]

ONNX Runtime is used as its documentation says: quant_pre_process, then quantize_static with QDQ, per-channel weights,
unsigned activations and MinMax, or quantize_dynamic with per-channel weights. Ours is QuantizeStatic with its defaults.
Models, data and preprocessing are those of the plans; what is calibrated on is never scored. MobileNet has few images,
so it is repeated over ``--splits`` ways to divide them. Deltas to the float ONNX file are paired, with 95 % bootstrap
intervals; ``vs first`` compares KL with that of ONNX Runtime's static file, image by image. Latency: batch 1, one
thread, alternating with the float file, ratio of medians.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from _inputs import Arguments, positive, run
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from squeeze.algorithms.stats import mean_by_unit
from squeeze.api import load
from squeeze.data.base import Dataset
from squeeze.evaluate.latency import compare as compare_times
from squeeze.evaluate.latency import paired, stopwatch
from squeeze.models.artifact import Artifact
from squeeze.models.base import Batch
from squeeze.models.onnx_model import OnnxModel
from squeeze.passes.base import Context
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.passes.quantize.quantize_static import QuantizeStatic
from squeeze.plan.check import example_shapes
from squeeze.plan.plan import Plan

PLANS = Path(__file__).parent.parent / "plans"
Timed = OnnxModel | Artifact
SESSIONS = 8  # fresh ones of each file
MODELS = {"resnet20": "resnet20-cifar10-int8.yaml", "mobilenet": "mobilenet-imagenet-int8.yaml"}


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # onnxruntime.quantization recommends its own preprocessing, which was done
    for name in options.model:
        plan = load(PLANS / MODELS[name], [], {"real": str(options.real)})
        exported = ExportOnnx().run(plan.model.read(plan.root, example_shapes(plan)), Context(threads=1))
        exported.threads = 1
        for seed in range(options.splits if name == "mobilenet" else 1):
            calibrate, evaluate = (open_data(plan, role, seed) for role in ("calibrate", "evaluate"))
            print(f"\n{name}, split {seed}: calibrated on {len(calibrate)}, scored on {len(evaluate)} images")
            compare(exported, candidates(exported, calibrate), evaluate, options.seconds)


def arguments() -> argparse.Namespace:
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_real()
    parser.add_argument("--splits", type=positive, default=3, help="ways to divide MobileNet's images")
    parser.add_argument("--seconds", type=float, default=5.0, help="of stopwatch per file")
    parser.add_argument("--model", nargs="+", choices=list(MODELS), default=list(MODELS))
    return parser.parse_args()


def open_data(plan: Plan, role: str, seed: int) -> Dataset:
    return plan.data[role].model_copy(update={"seed": seed}).open(plan.root)


def candidates(exported: OnnxModel, calibrate: Dataset) -> Iterator[tuple[str, OnnxModel]]:
    """Quantized files of the same float file, by who made them."""
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared = Path(folder) / "float.onnx", Path(folder) / "prepared.onnx"
        plain.write_bytes(exported.data)
        quant_pre_process(plain, prepared)
        yield "ORT static", theirs_static(prepared, Path(folder) / "static.onnx", calibrate)
        quantize_dynamic(prepared, Path(folder) / "dynamic.onnx", per_channel=True)
        yield "ORT dynamic", OnnxModel.from_file(Path(folder) / "dynamic.onnx")
    yield "ours", QuantizeStatic().run(exported, Context(threads=1, calibration_data=calibrate))
    yield "ours, entry int8", QuantizeStatic(entry="int8").run(exported, Context(threads=1, calibration_data=calibrate))


def theirs_static(prepared: Path, out: Path, calibrate: Dataset) -> OnnxModel:
    quantize_static(
        prepared,
        out,
        Reader(calibrate),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )
    return OnnxModel.from_file(out)


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Calibration images one by one: ONNX Runtime keeps what it computes for each of them."""

    def __init__(self, data: Dataset) -> None:
        self.batches = data.batches(1)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"image": batch.image.numpy()}


def compare(exported: Timed, files: Iterator[tuple[str, Timed]], evaluate: Dataset, seconds: float) -> None:
    """A line for each file, beside the float one."""
    one = evaluate.batch(np.arange(1))
    labels, original = logits(exported, evaluate)
    first_kl: np.ndarray | None = None
    print(f"{'':18}{'top-1':>7}  {'delta, points':24}{'KL':>8}  {'vs first':26}{'flips':>7}{'size':>8}  latency")
    print(f"{'float':18}{100 * top1(original, labels).mean():7.2f}")
    for name, model in files:
        model.threads = 1
        _, got = logits(model, evaluate)
        divergence = kl(original, got)
        first_kl = divergence if first_kl is None else first_kl
        flips = 100 * (original.argmax(1) != got.argmax(1)).float().mean()
        units = evaluate.units
        delta = paired_difference(100 * (top1(got, labels) - top1(original, labels)), units)
        against = paired_difference(divergence - first_kl, units, 4) if divergence is not first_kl else ""
        print(
            f"{name:18}{100 * top1(got, labels).mean():7.2f}  {delta:24}{divergence.mean():8.4f}  {against:26}"
            f"{flips:6.1f}%{100 * model.nbytes() / exported.nbytes():7.1f}%  {latency(model, exported, one, seconds)}",
            flush=True,
        )


def logits(model: Timed, data: Dataset) -> tuple[np.ndarray, torch.Tensor]:
    parts = [(batch.labels, model.predict(batch)) for batch in data.batches(16)]
    return np.concatenate([p[0].numpy() for p in parts if p[0] is not None]), torch.cat([p[1] for p in parts])


def top1(scores: torch.Tensor, labels: np.ndarray) -> np.ndarray:
    right: np.ndarray = (scores.argmax(1).numpy() == labels).astype(np.float64)
    return right


def kl(original: torch.Tensor, got: torch.Tensor) -> np.ndarray:
    p, q = original.double().log_softmax(1), got.double().log_softmax(1)
    divergence: np.ndarray = (p.exp() * (p - q)).sum(1).numpy()
    return divergence


def paired_difference(differences: np.ndarray, units: np.ndarray, digits: int = 2) -> str:
    low, high = mean_by_unit(differences, units).interval() or (np.nan, np.nan)
    return f"{differences.mean():+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def latency(model: Timed, exported: Timed, one: Batch, seconds: float) -> str:
    new, old = (lambda m=m: stopwatch(m.reopened().runner(one, 1)) for m in (model, exported))
    timing = paired(compare_times(new, old, seconds, SESSIONS), compare_times(old, old, seconds, SESSIONS).spread)
    return f"{timing.ratio:.2f} [{timing.interval.low:.2f}, {timing.interval.high:.2f}]"


if __name__ == "__main__":
    run(main)
