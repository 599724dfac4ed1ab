"""Int8 .tflite files of ResNet-20 and MobileNetV1: LiteRT's own quantizer against Squeeze, same float file and images.

    python benchmarks/phone_files.py [--real FOLDER] [--seconds 5] [--model NAME ...]

LiteRT's quantizer (``pip install ai-edge-quantizer``) is used as its documentation says: the recipe ``static_wi8_ai8``,
calibrated on the plan's images. Ours is QuantizeStatic with its defaults and, beside it, with ``entry: int8``, which
makes every layer integer as the recipe does. All files run in LiteRT with XNNPACK, on images that none was calibrated
on. Deltas to the float file are paired, with 95 % intervals; ``vs first`` compares KL with the recipe's, image by
image. Latency: batch 1, one thread, alternating with the float file, ratio of medians.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _inputs import Arguments, run
from int8_vs_onnxruntime import MODELS, PLANS, compare

from squeeze.api import load
from squeeze.data.base import Dataset
from squeeze.models.artifact import Artifact
from squeeze.models.base import Batch
from squeeze.models.onnx_model import OnnxModel
from squeeze.passes.base import Context
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.passes.quantize.quantize_static import QuantizeStatic
from squeeze.plan.check import example_shape
from squeeze.writers.litert import LiteRtWriter
from squeeze.writers.tflite.file import SIGNATURE


def main() -> None:
    options = arguments()
    if find_spec("ai_edge_quantizer") is None:
        raise SystemExit("LiteRT's own quantizer is absent: pip install ai-edge-quantizer brings it")
    torch.set_num_threads(1)
    for name in options.model:
        plan = load(PLANS / MODELS[name], [], {"real": str(options.real)})
        exported = ExportOnnx().run(plan.model.read(plan.root, example_shape(plan)), Context(threads=1))
        calibrate, evaluate = (plan.open_data(role) for role in ("calibrate", "evaluate"))
        print(f"\n{name}: calibrated on {len(calibrate)}, scored on {len(evaluate)} images")
        with tempfile.TemporaryDirectory() as folder:
            float_file, *others = files(exported, calibrate, Path(folder))
            compare(float_file[1], iter(others), evaluate, options.seconds)


def arguments() -> argparse.Namespace:
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_real()
    parser.add_argument("--seconds", type=float, default=5.0, help="of stopwatch per file")
    parser.add_argument("--model", nargs="+", choices=list(MODELS), default=list(MODELS))
    return parser.parse_args()


def files(exported: OnnxModel, calibrate: Dataset, folder: Path) -> Iterator[tuple[str, Artifact]]:
    """The float file and its int8 files, by who made them."""
    float_file = write(exported, folder / "float")
    yield "float", artifact(float_file)
    yield "LiteRT recipe", IntegerFile(by_recipe(float_file, calibrate, folder / "recipe.tflite"), runtime="litert")
    for name, options in (("ours", {}), ("ours, entry int8", {"entry": "int8"})):
        context = Context(calibration_data=calibrate, threads=1)
        quantized = QuantizeStatic(**options).run(exported, context)  # type: ignore[arg-type]
        yield name, artifact(write(quantized, folder / name.replace(" ", "")))


def write(model: OnnxModel, folder: Path) -> Path:
    folder.mkdir()
    return LiteRtWriter().write(model, folder)


class IntegerFile(Artifact):
    """A file that takes and gives int8; rounding its inputs and scaling its outputs are not timed."""

    threads = 1

    def predict(self, batch: Batch) -> torch.Tensor:
        file = self.opened(1).file
        (out,) = file.outputs
        scale, zero_point = out["quantization"]
        rows = [self.opened(1).run(self._rounded(batch, index))[0] for index in range(len(batch))]
        return scale * (torch.from_numpy(np.concatenate(rows)).float() - zero_point)

    def runner(self, batch: Batch, threads: int) -> Callable[[], object]:
        call: Callable[[], object] = self.opened(threads).stopwatch_call(self._rounded(batch, 0))
        return call

    def _rounded(self, batch: Batch, index: int) -> dict[str, np.ndarray]:
        (spec,) = self.opened(1).file.inputs
        scale, zero_point = spec["quantization"]
        image = batch.image[index : index + 1].numpy()
        return {spec["name"]: np.clip(np.rint(image / scale) + zero_point, -128, 127).astype(np.int8)}


def artifact(file: Path) -> Artifact:
    made = Artifact(file, runtime="litert")
    made.threads = 1
    return made


def by_recipe(float_file: Path, calibrate: Dataset, file: Path) -> Path:
    """As its documentation says: a recipe, calibration by examples of the signature, quantize."""
    from ai_edge_quantizer import quantizer, recipe

    examples = [{"image": batch.image.numpy()} for batch in calibrate.batches(1)]
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # it says much
        quantize: Any = quantizer.Quantizer(str(float_file), recipe.static_wi8_ai8())
        ranges = quantize.calibrate({SIGNATURE: examples}, num_threads=1)
        file.write_bytes(bytes(quantize.quantize(ranges).quantized_model))
    return file


if __name__ == "__main__":
    run(main)
