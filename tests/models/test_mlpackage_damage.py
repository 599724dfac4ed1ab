"""A Core ML package that is none: each kind of damage is one line that says where and what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_operators import quantized

from squeeze.errors import ModelError
from squeeze.formats.mlpackage import MANIFEST, MODEL, PACKAGE, WEIGHTS, coremltools, read_mlpackage
from squeeze.models.onnx_model import OnnxModel
from squeeze.writers.coreml import CoreMlWriter

pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'squeeze[coreml]'")


def cut_short(root: Path) -> None:
    (root / MODEL).write_bytes((root / MODEL).read_bytes()[:300])


def without_weights(root: Path) -> None:
    (root / WEIGHTS).unlink()


def with_short_weights(root: Path) -> None:
    (root / WEIGHTS).write_bytes((root / WEIGHTS).read_bytes()[:200])


def without_model(root: Path) -> None:
    (root / MODEL).unlink()


def of_another_kind(root: Path) -> None:
    (root / MODEL).write_bytes(coremltools().proto.Model_pb2.Model(specificationVersion=8).SerializeToString())


def reading_ahead(root: Path) -> None:
    """The first operation at the end."""

    def change(operations: Any) -> None:
        first = next(one for one in operations if one.type == "quantize")
        operations.append(first)
        operations.remove(first)

    changed(root, change)


def changed(root: Path, change: Callable[[Any], None]) -> None:
    """The same package with another program."""
    model = coremltools().proto.Model_pb2.Model.FromString((root / MODEL).read_bytes())
    (block,) = model.mlProgram.functions["main"].block_specializations.values()
    change(block.operations)
    (root / MODEL).write_bytes(model.SerializeToString())


def with_weights_elsewhere(root: Path) -> None:
    def change(operations: Any) -> None:
        weight = next(one for one in operations if one.type == "constexpr_affine_dequantize")
        weight.attributes["quantized_data"].blobFileValue.fileName = "/etc/passwd"

    changed(root, change)


def with_another_model(root: Path) -> None:
    manifest = root / MANIFEST
    manifest.write_text(manifest.read_text().replace("com.apple.CoreML/model.mlmodel", "com.apple.CoreML/../other"))


def without_list(root: Path) -> None:
    (root / MANIFEST).write_text("{}")


def with_a_loop(root: Path) -> None:
    changed(root, lambda operations: operations[-1].blocks.add())


def with_a_shape_of_its_own(root: Path) -> None:
    def change(operations: Any) -> None:
        weight = next(one for one in operations if one.type == "constexpr_affine_dequantize")
        weight.attributes["quantized_data"].type.tensorType.dimensions[0].constant.size = 2**40

    changed(root, change)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_short, "not a Core ML package that can be read"),
        (without_weights, "lies in a file of weights that is not there"),
        (with_short_weights, "not a Core ML package that can be read"),
        (without_model, "not a Core ML package that can be read .*No such file"),
        (of_another_kind, "holds no program with the one function 'main'"),
        (reading_ahead, "'i' is read and not defined before"),
        (with_weights_elsewhere, "lies in '/etc/passwd'; @model_path/weights/weight.bin would be right"),
        (with_another_model, "Manifest.json calls 'com.apple.CoreML/../other' the model"),
        (without_list, "not a Core ML package that can be read .*itemInfoEntries"),
        (with_a_loop, "dequantize with programs of its own"),
        (with_a_shape_of_its_own, "holds 288 numbers; its shape"),
    ],
)
def test_damage_is_one_line(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    CoreMlWriter().write(OnnxModel(quantized(128, np.uint8)), tmp_path)
    damage(tmp_path / PACKAGE)
    with pytest.raises(ModelError, match=message) as raised:
        read_mlpackage(tmp_path / PACKAGE)
    assert "\n" not in str(raised.value)
