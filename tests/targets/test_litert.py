"""The ``.tflite`` package: it verifies, its script runs without Squeeze, and what damage and misfits are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from package_script import require_golden_output

from squeeze.errors import ModelError, VerifyError
from squeeze.models.base import Batch
from squeeze.models.onnx_model import OnnxModel
from squeeze.runtimes.litert import LiteRt
from squeeze.targets.base import Packed
from squeeze.targets.bench import Load, bench
from squeeze.targets.mobile import Mobile
from squeeze.targets.package import PackageInputs
from squeeze.targets.verify import open_package, verify
from squeeze.writers.litert import LiteRtWriter

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'squeeze[litert]'")
TARGET = Mobile(runtime="litert")


@pytest.fixture(scope="module")
def packed(quantized: OnnxModel, pieces: PackageInputs, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    return TARGET.pack(quantized, pieces, tmp_path_factory.mktemp("tflite") / "tiny-tflite.zip")


def test_the_package_verifies_and_answers_as_the_graph_does(packed: Packed, quantized: OnnxModel, batch: Batch) -> None:
    assert packed.verification.bit_equal
    manifest = open_package(packed.path).manifest
    assert "model.tflite" in manifest.files
    assert [(spec.name, spec.shape) for spec in (*manifest.inputs, *manifest.outputs)] == [
        ("image", (1, 3, 8, 8)),
        ("logits", (1, 5)),
    ]
    expected, result = quantized.predict(batch), packed.artifact.predict(batch)
    assert (result - expected).abs().max() < 0.02 * expected.abs().max()


def test_a_float_file_is_the_float_graph(model: OnnxModel, batch: Batch, tmp_path: Path) -> None:
    opened = LiteRt.open(LiteRtWriter().write(model, tmp_path), 1, "it")
    result = np.concatenate([opened.run({"image": batch.image[i : i + 1].numpy()})[0] for i in range(len(batch))])
    assert torch.allclose(torch.from_numpy(result), model.predict(batch), atol=1e-5)


def test_its_script_runs_without_squeeze(packed: Packed, tmp_path: Path) -> None:
    require_golden_output(packed.path, tmp_path)


def test_it_is_benched_one_example_at_a_time(packed: Packed) -> None:
    measured = bench(open_package(packed.path), load=Load(batch_sizes=(1,), seconds=0.05))
    assert [row["batch"] for row in measured["batches"]] == [1]


def test_a_damaged_package_is_refused_in_its_confined_process(packed: Packed) -> None:
    package = open_package(packed.path)
    file = package.folder / "model.tflite"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(VerifyError, match="LiteRT refuses the file"):
        verify(package)


def test_another_input_is_refused(packed: Packed) -> None:
    with pytest.raises(ModelError, match=r"LiteRT cannot run the model: .*Dimension mismatch"):
        LiteRt.open(packed.artifact.main, 1, "it").run({"image": np.zeros((1, 3, 9, 8), np.float32)})
