"""A Core ML package that is none: each kind of damage is one line that says where and what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx_operators import quantized

from squeeze.errors import ModelError
from squeeze.formats.mlpackage import MODEL, PACKAGE, WEIGHTS, coremltools, read_mlpackage
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
    model = coremltools().proto.Model_pb2.Model.FromString((root / MODEL).read_bytes())
    (block,) = model.mlProgram.functions["main"].block_specializations.values()
    first = next(one for one in block.operations if one.type == "quantize")
    block.operations.append(first)
    block.operations.remove(first)
    (root / MODEL).write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_short, "not a Core ML package that can be read"),
        (without_weights, "lies in a file of weights that is not there"),
        (with_short_weights, "not a Core ML package that can be read"),
        (without_model, "not a Core ML package that can be read .*No such file"),
        (of_another_kind, "holds no program with the one function 'main'"),
        (reading_ahead, "'i' is read and not defined before"),
    ],
)
def test_damage_is_one_line(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    CoreMlWriter().write(OnnxModel(quantized(128, np.uint8)), tmp_path)
    damage(tmp_path / PACKAGE)
    with pytest.raises(ModelError, match=message) as raised:
        read_mlpackage(tmp_path / PACKAGE)
    assert "\n" not in str(raised.value)
