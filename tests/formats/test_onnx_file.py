"""Reading ONNX files that were not made by friends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from squeeze.errors import ModelError
from squeeze.formats.onnx_file import onnx_bytes, read_onnx


def gemm(names: bool = True) -> onnx.ModelProto:
    node = helper.make_node("Gemm", ["x", "w"], ["logits"], "fc" if names else "")
    weight = numpy_helper.from_array(np.arange(600, dtype=np.float32).reshape(20, 30), "w")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 20])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 30])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def with_side_file(folder: Path, location: str = "weights.bin") -> Path:
    path = folder / "m.onnx"
    onnx.save(gemm(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_in_a_side_file_are_taken_in(tmp_path: Path) -> None:
    model = read_onnx(with_side_file(tmp_path))
    (tmp_path / "weights.bin").unlink()
    tensor = model.graph.initializers["w"].const_value
    assert tensor is not None
    assert tensor.numpy()[1, 2] == 32
    assert b"weights.bin" not in onnx_bytes(model)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "sub/../../secret.bin"])
def test_weights_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(b"x" * 9999)
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(ModelError, match="weight 'w' lies outside the model's folder"):
        read_onnx(with_side_file(folder, location))


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(b"x" * 9999)
    folder = tmp_path / "model"
    folder.mkdir()
    path = with_side_file(folder)
    (folder / "weights.bin").unlink()
    (folder / "weights.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ModelError, match="outside the model's folder"):
        read_onnx(path)


def test_a_short_side_file_is_called_truncated(tmp_path: Path) -> None:
    path = with_side_file(tmp_path)
    side = tmp_path / "weights.bin"
    side.write_bytes(side.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"100 bytes, but weight 'w' ends at 2400; truncated\?"):
        read_onnx(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99], ids=["empty", "head", "half", "tail missing"])
def test_a_truncated_file_is_one_clear_line(tmp_path: Path, share: float) -> None:
    data = gemm().SerializeToString()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelError, match=r"cut\.onnx: .*truncated\?") as caught:
        read_onnx(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.onnx: no such file"):
        read_onnx(tmp_path / "none.onnx")


def test_nameless_nodes_get_names(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(gemm(names=False).SerializeToString())
    assert [node.name for node in read_onnx(path).graph] == ["Gemm_0"]
