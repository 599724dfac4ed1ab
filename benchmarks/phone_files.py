"""Int8 phone files of ResNet-20 and MobileNetV1: each runtime's own quantizer against Squeeze, same weights and images.

    python benchmarks/phone_files.py [--real FOLDER] [--seconds 5] [--model NAME ...] [--runtime NAME ...]

LiteRT's quantizer (``pip install ai-edge-quantizer``) is used as its documentation says: the recipe
``static_wi8_ai8`` on the float file, calibrated on the plan's images. So is ExecuTorch's (extra mobile):
``XNNPACKQuantizer`` with symmetric weights per channel, ``prepare_pt2e``, the plan's images, ``convert_pt2e``, and its
partitioner. Ours is QuantizeStatic with its defaults and, beside it, with the options that the model's plan for phones
gives it. All files run in their runtime with XNNPACK, on the images of that plan, of which none was calibrated on.
Deltas to the runtime's float file are paired, with 95 % intervals, ten crops of an image taken as one; ``vs first``
compares KL with the recipe's, image by image.
Latency: batch 1, one thread, alternating with the float file, ratio of medians.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _inputs import Arguments, run
from int8_vs_onnxruntime import PLANS, compare

from squeeze import registry
from squeeze.api import load
from squeeze.data.base import Dataset
from squeeze.models.artifact import Artifact
from squeeze.models.base import Batch
from squeeze.models.onnx_model import OnnxModel
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.passes.quantize.quantize_static import QuantizeStatic
from squeeze.plan.check import example_shapes
from squeeze.runtimes.executorch import ExecuTorchProgram
from squeeze.writers.tflite.file import SIGNATURE

MODELS = {"resnet20": "resnet20-phone.yaml", "mobilenet": "mobilenet-phone.yaml"}
QUANTIZERS = {  # by runtime: what must be importable, and what brings it
    "litert": ("ai_edge_quantizer", "ai-edge-quantizer"),
    "executorch": ("executorch", "'squeeze[mobile]'"),
}


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    for runtime in options.runtime:
        module, package = QUANTIZERS[runtime]
        if find_spec(module) is None:
            raise SystemExit(f"{runtime}'s own quantizer is absent: pip install {package} brings it")
        for name in options.model:
            compare_files(name, runtime, options.real, options.seconds)


def arguments() -> argparse.Namespace:
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_real()
    parser.add_argument("--seconds", type=float, default=5.0, help="of stopwatch per file")
    parser.add_argument("--model", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--runtime", nargs="+", choices=list(QUANTIZERS), default=list(QUANTIZERS))
    return parser.parse_args()


def compare_files(name: str, runtime: str, real: Path, seconds: float) -> None:
    """A table of one model's files in one runtime."""
    plan = load(PLANS / MODELS[name], [], {"real": str(real)})
    model = plan.model.read(plan.root, example_shapes(plan))
    calibrate, evaluate = (plan.open_data(role) for role in ("calibrate", "evaluate"))
    print(f"\n{name} in {runtime}: calibrated on {len(calibrate)}, scored on {len(evaluate)} images")
    with tempfile.TemporaryDirectory() as folder:
        (planned,) = (step.pass_ for step in plan.steps if isinstance(step.pass_, QuantizeStatic))
        float_file, *others = files(model, runtime, calibrate, planned, Path(folder))
        compare(float_file[1], iter(others), evaluate, seconds)


def files(
    model: TorchModel, runtime: str, calibrate: Dataset, planned: QuantizeStatic, folder: Path
) -> Iterator[tuple[str, Artifact]]:
    """The float file and its int8 files, by who made them."""
    exported = ExportOnnx().run(model, Context(threads=1))
    float_file = write(exported, runtime, folder / "float")
    yield "float", artifact(float_file, runtime)
    if runtime == "litert":
        recipe: Artifact = IntegerFile(litert_recipe(float_file, calibrate, folder / "recipe.tflite"), runtime=runtime)
    else:
        recipe = artifact(executorch_recipe(model, exported, calibrate, folder / "recipe.pte"), runtime)
    yield "its own recipe", recipe
    for name, quantizer in (("ours", QuantizeStatic()), ("ours, its plan", planned)):
        quantized = quantizer.run(exported, Context(calibration_data=calibrate, threads=1))
        yield name, artifact(write(quantized, runtime, folder / name.replace(" ", "")), runtime)


def write(model: OnnxModel, runtime: str, folder: Path) -> Path:
    folder.mkdir()
    file: Path = registry.load("writers", runtime)().write(model, folder)
    return file


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


def artifact(file: Path, runtime: str) -> Artifact:
    made = Artifact(file, runtime=runtime)
    made.threads = 1
    return made


def litert_recipe(float_file: Path, calibrate: Dataset, file: Path) -> Path:
    """As its documentation says: a recipe, calibration by examples of the signature, quantize."""
    from ai_edge_quantizer import quantizer, recipe

    examples = [{"image": batch.image.numpy()} for batch in calibrate.batches(1)]
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # it says much
        quantize: Any = quantizer.Quantizer(str(float_file), recipe.static_wi8_ai8())
        ranges = quantize.calibrate({SIGNATURE: examples}, num_threads=1)
        file.write_bytes(bytes(quantize.quantize(ranges).quantized_model))
    return file


def executorch_recipe(model: TorchModel, exported: OnnxModel, calibrate: Dataset, file: Path) -> Path:
    """As its documentation says: quantize the exported program, export it again, hand it to XNNPACK."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    example = (calibrate.batch(np.arange(1)).image,)
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # it says much
        warnings.simplefilter("ignore")
        quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
        prepared = prepare_pt2e(torch.export.export(model.module.eval(), example).module(), quantizer)
        for batch in calibrate.batches(1):
            prepared(batch.image)
        quantized = torch.export.export(convert_pt2e(prepared), example)
        names = {"inputs": [spec.name for spec in exported.inputs], "outputs": ["logits"]}
        stored = {ExecuTorchProgram.NAMES: torch.tensor(list(json.dumps(names).encode())).to(torch.uint8)}
        lowered = to_edge_transform_and_lower(quantized, partitioner=[XnnpackPartitioner()], constant_methods=stored)
        file.write_bytes(lowered.to_executorch().buffer)
    return file


if __name__ == "__main__":
    run(main)
