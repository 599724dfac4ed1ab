"""``squeeze init MODEL``: the plan that it writes checks, but for the data that only the user has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from language_world import write_folder, write_tokenizer
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tiny import faults, squeeze


def language(folder: Path) -> Path:
    """Rows of 64 and 96: groups of 32."""
    write_tokenizer(write_folder(folder / "model"))
    for number, name in enumerate(("calibrate", "evaluate")):
        (folder / f"{name}.txt").write_text(f"the quick brown fox number {'abcdefg'[number]} jumps over dogs. " * 4000)
    return folder / "model"


def network(folder: Path, shape: list[int | str], kind: int = TensorProto.FLOAT) -> Path:
    """An ONNX graph with a product of all values of an example, 3 classes."""
    count = int(np.prod(shape[1:]))  # type: ignore[arg-type]
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["f"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["y"], "classifier"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", kind, shape)], [value("y", TensorProto.FLOAT, ["n", 3])], [weight]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "net.onnx")
    return folder / "net.onnx"


def pictures(folder: Path) -> Path:
    random = np.random.default_rng(0)
    for role, count in (("calibrate", 90), ("evaluate", 4)):
        for label in "abc":
            (folder / role / label).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 255, (12, 12, 3), np.uint8)
                Image.fromarray(pixels).save(folder / role / label / f"{number}.png")
    return network(folder, ["n", 3, 12, 12])


def arrays(folder: Path) -> Path:
    random = np.random.default_rng(0)
    np.savez(folder / "evaluate.npz", x=random.integers(0, 9, (20, 8), np.int32), labels=random.integers(0, 3, 20))
    return network(folder, ["n", 8], TensorProto.INT32)


KINDS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "language": (language, "group_size: 32"),
    "pictures": (pictures, "resize: [12, 12]"),
    "arrays": (arrays, 'inputs: {"x": "x"}'),
}


@pytest.mark.parametrize(("world", "line"), list(KINDS.values()), ids=list(KINDS))
def test_the_plan_of_a_model_checks(tmp_path: Path, world: Callable[[Path], Path], line: str) -> None:
    plan = tmp_path / "plan.yaml"
    assert squeeze("init", world(tmp_path), "--out", plan) == 0
    assert line in plan.read_text()
    assert "FILL IN" in plan.read_text()
    assert [fault for fault in faults(plan) if "pip install" not in fault] == []


def test_an_encoder_is_given_sentences_and_an_export(tmp_path: Path, minilm: Path) -> None:
    assert squeeze("init", minilm, "--out", tmp_path / "plan.yaml") == 0
    (tmp_path / "evaluate.tsv").write_text("a fine day\t1\nbad food\t0\n")
    assert faults(tmp_path / "plan.yaml") == []


def test_what_is_to_fill_in_is_a_fault_of_its_line(tmp_path: Path) -> None:
    assert squeeze("init", network(tmp_path, ["n", 3, 12, 12]), "--out", tmp_path / "plan.yaml") == 0
    lines = (tmp_path / "plan.yaml").read_text().splitlines()
    messages = faults(tmp_path / "plan.yaml")
    assert messages
    assert all("FILL IN" in lines[int(fault.split(":")[0]) - 1] for fault in messages), messages


def test_a_plan_that_is_there_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = network(tmp_path, ["n", 8])
    (tmp_path / "plan.yaml").write_text("mine")
    assert squeeze("init", model, "--out", tmp_path / "plan.yaml") == 2
    assert "is there already; --force overwrites it" in capsys.readouterr().err
    assert (tmp_path / "plan.yaml").read_text() == "mine"
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    assert squeeze("init", tmp_path / "bad.gguf", "--out", tmp_path / "other.yaml") == 1
    assert not (tmp_path / "other.yaml").exists()


@pytest.mark.parametrize("name", ["my-lama", "model.gguf", "weights.safetensors"])
def test_a_model_that_is_not_there_is_no_plans_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "weights.safetensors").write_text("mine")
    assert squeeze("init", tmp_path / name, "--force") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"{name}: no model is there, and it is no plan's name; one that ends in .yaml would be")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]
    assert (tmp_path / "weights.safetensors").read_text() == "mine"
