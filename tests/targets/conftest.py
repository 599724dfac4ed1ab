"""A tiny real CNN in ONNX, and packages made of it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from squeeze.models.base import Batch
from squeeze.models.onnx_model import OnnxModel
from squeeze.targets.base import Packed
from squeeze.targets.card import Score
from squeeze.targets.cpu import Cpu
from squeeze.targets.package import PackageInputs

CLASSES = 5


def make_onnx(batch: int | str = "n") -> onnx.ModelProto:
    """Conv 3 -> 8, relu, mean, Gemm 8 -> 5, seeded."""
    random = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c"], "conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["logits"], "gemm"),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES])],
        [weight("w1", 8, 3, 3, 3), weight("b1", 8), weight("w2", 8, CLASSES), weight("b2", CLASSES)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture(scope="session")
def tiny_onnx() -> Callable[..., onnx.ModelProto]:
    """Makes the tiny model; tests change what they get."""
    return make_onnx


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    path.write_bytes(make_onnx().SerializeToString(deterministic=True))
    return path


@pytest.fixture(scope="session")
def model(model_file: Path) -> OnnxModel:
    return OnnxModel.from_file(model_file)


@pytest.fixture(scope="session")
def batch() -> Batch:
    return Batch({"image": torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))})


@pytest.fixture(scope="session")
def pieces(batch: Batch) -> PackageInputs:
    return PackageInputs(
        name="tiny",
        golden=batch,
        plan={"model": {"onnx": "tiny.onnx"}, "targets": [{"target": "cpu"}]},
        ledger={"rows": [{"pass": "original"}]},
        measurements={"date": "2026-01-01", "median_ms": 1.5},
        labels=["ant", "bee", "cat", "dog", "elk"],
        preprocessing={
            "resize": 10,
            "crop": 8,
            "channels": 3,
            "scale": 1 / 255,
            "normalize": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
        },
        provenance={"original": "0" * 64, "versions": {"squeeze": "0.1.0"}},
        scores=[Score("top-1", "80.4 %", "80.7 %", "-0.3 [-0.7, +0.1]", "not told apart", "4 examples of noise")],
    )


@pytest.fixture(scope="session")
def quantized_by_onnxruntime(
    model_file: Path, batch: Batch, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., OnnxModel]:
    """By ONNX Runtime's own quantizer: ranges and integers that are not of our making are kept as well."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([{"image": batch.image.numpy()}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    def quantized(**options: object) -> OnnxModel:
        out = tmp_path_factory.mktemp("int8") / "int8.onnx"
        quantize_static(
            model_file, out, Reader(), per_channel=True, **({"activation_type": QuantType.QUInt8} | options)
        )
        return OnnxModel.from_file(out)

    return quantized


@pytest.fixture(scope="session")
def quantized(quantized_by_onnxruntime: Callable[..., OnnxModel]) -> OnnxModel:
    """Integers that phones' kernels multiply: half the range, weights without zero points."""
    return quantized_by_onnxruntime(reduce_range=True, extra_options={"WeightSymmetric": True})


@pytest.fixture(scope="session")
def packed(model: OnnxModel, pieces: PackageInputs, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    return Cpu().pack(model, pieces, tmp_path_factory.mktemp("packed") / "tiny-cpu.zip")


@pytest.fixture(scope="session")
def plan(tmp_path_factory: pytest.TempPathFactory, model_file: Path) -> Path:
    """A plan on the tiny CNN, with 80 examples to score on."""
    folder = tmp_path_factory.mktemp("plan")
    images = np.random.default_rng(3).normal(size=(80, 8, 8, 3)).astype(np.float32)
    np.savez(folder / "data.npz", x=images, y=np.arange(80) % 5)
    (folder / "plan.yaml").write_text(
        f"model: {{onnx: {model_file}}}\n"
        "data: {evaluate: {npz: data.npz, images: x, labels: y}}\n"
        "metrics: [top1, kl, flips, size]\n"
        "passes: [{pass: float16}]\n"
    )
    return folder / "plan.yaml"


@pytest.fixture
def files(packed: Packed) -> dict[str, bytes]:
    with zipfile.ZipFile(packed.path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
