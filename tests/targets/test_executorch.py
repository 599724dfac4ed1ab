"""The ``.pte`` package: the graph's own integers, the same bytes twice, its script, and what damage is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from package_script import require_golden_output

from squeeze.errors import EffectError, ModelError, VerifyError
from squeeze.formats.pte import read_pte
from squeeze.models.base import Batch
from squeeze.models.onnx_model import OnnxModel
from squeeze.runtimes.executorch import ExecuTorch, ExecuTorchProgram
from squeeze.targets.base import Packed
from squeeze.targets.bench import Load, bench
from squeeze.targets.mobile import Mobile
from squeeze.targets.package import PackageInputs
from squeeze.targets.verify import open_package, verify
from squeeze.writers.executorch import ExecuTorchWriter
from squeeze.writers.proof import proven

pytest.importorskip("executorch", reason="executorch is not installed: pip install 'squeeze[mobile]'")
TARGET = Mobile(runtime="executorch")


@pytest.fixture(scope="module")
def packed(quantized: OnnxModel, pieces: PackageInputs, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    return TARGET.pack(quantized, pieces, tmp_path_factory.mktemp("pte") / "tiny-pte.zip")


def test_the_package_verifies_and_answers_as_the_graph_does(packed: Packed, quantized: OnnxModel, batch: Batch) -> None:
    """The last layer rounds its inputs by a range of its own: half a step of 256."""
    assert packed.verification.bit_equal
    assert set(open_package(packed.path).manifest.files) > {"model.pte", "delegated.json"}
    expected, result = quantized.predict(batch), packed.artifact.predict(batch)
    assert (result - expected).abs().max() < 0.02 * expected.abs().max()


def test_the_inputs_and_outputs_have_the_names_of_the_graph(packed: Packed) -> None:
    manifest = open_package(packed.path).manifest
    assert [(spec.name, spec.shape) for spec in manifest.inputs] == [("image", (1, 3, 8, 8))]
    assert [spec.name for spec in manifest.outputs] == ["logits"]


def test_executorchs_own_reader_sees_the_very_integers(packed: Packed, quantized: OnnxModel) -> None:
    (line,) = proven(ExecuTorchWriter().prove(quantized, packed.artifact.main))
    assert (line["tensors"], line["weights"], line["differing"]) == (2, 8 * 27 + 40, 0)


def test_a_single_other_integer_is_found(packed: Packed, quantized: OnnxModel, tmp_path: Path) -> None:
    data = bytearray(packed.artifact.main.read_bytes())
    weight = next(read_pte(packed.artifact.main).layers()).weight.tobytes()
    at = data.index(weight)
    data[at] = (data[at] + 1) % 256
    (tmp_path / "model.pte").write_bytes(data)
    with pytest.raises(EffectError, match="reads 1 of 216 weights otherwise than they were written"):
        proven(ExecuTorchWriter().prove(quantized, tmp_path / "model.pte"))


def test_xnnpack_takes_the_whole_network(packed: Packed, quantized: OnnxModel) -> None:
    facts = ExecuTorchWriter().facts(quantized, packed.artifact.main)["delegated"]
    assert facts["operators"][0] == facts["operators"][1] >= 4
    assert facts["macs"] == [quantized.macs(), quantized.macs()]
    assert facts["left"] == {}


@pytest.mark.slow
def test_a_second_process_writes_the_same_bytes(packed: Packed, quantized: OnnxModel, tmp_path: Path) -> None:
    again = ExecuTorchWriter().write(quantized, tmp_path)
    assert again.read_bytes() == packed.artifact.main.read_bytes()


def test_programs_with_other_threads_open_beside_each_other(packed: Packed, batch: Batch) -> None:
    """Threads are the process's: a program that was loaded for two is loaded again after one for one has run."""
    one, two = (ExecuTorch.open(packed.artifact.main, threads, "it") for threads in (1, 2))
    feed = {"image": batch.image[:1].numpy()}
    outputs = [opened.run(feed)[0] for opened in (one, two, one, two)]
    assert all(np.array_equal(outputs[0], output) for output in outputs)


def test_kernels_outside_the_delegate_run_on_the_programs_threads(packed: Packed) -> None:
    """They run in OpenMP, whose threads torch sets; those of somebody else's choice are given back."""
    program, before = ExecuTorchProgram(packed.artifact.main, 1), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        program.method = lambda _: torch.get_num_threads()
        assert program.call([]) == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_memory_that_is_not_in_order_gives_the_same_answer(packed: Packed, batch: Batch) -> None:
    opened = ExecuTorch.open(packed.artifact.main, 1, "it")
    image = batch.image[:1].numpy()
    rotated = np.ascontiguousarray(image.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert np.array_equal(opened.run({"image": image})[0], opened.run({"image": rotated})[0])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            np.zeros((1, 3, 9, 8), np.float32),
            r"input 'image' is float32 \[1, 3, 9, 8\], and it takes float32 \[1, 3, 8, 8\]",
        ),
        (np.zeros((1, 3, 8, 8), np.int64), r"input 'image' is int64"),
    ],
)
def test_another_input_is_refused(packed: Packed, image: np.ndarray, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ExecuTorch.open(packed.artifact.main, 1, "it").run({"image": image})


@pytest.mark.parametrize(
    ("keep", "reason"), [(8, "offset 0"), (2000, "File size is too small")], ids=["a few bytes", "half"]
)
def test_a_damaged_program_is_refused_with_the_runtimes_reason(
    packed: Packed, tmp_path: Path, keep: int, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.pte").write_bytes(packed.artifact.main.read_bytes()[:keep])
    with pytest.raises(ModelError, match=f"x: ExecuTorch refuses the program .*{reason}"):
        ExecuTorch.open(tmp_path / "model.pte", 1, "x")
    assert capfd.readouterr().err == ""
    with pytest.raises(ModelError, match="not a whole ExecuTorch program"):
        read_pte(tmp_path / "model.pte")


def test_a_damaged_package_is_refused_in_its_confined_process(packed: Packed) -> None:
    package = open_package(packed.path)
    file = package.folder / "model.pte"
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(VerifyError, match="ExecuTorch refuses the program"):
        verify(package)


def test_its_script_runs_without_squeeze(packed: Packed, tmp_path: Path) -> None:
    require_golden_output(packed.path, tmp_path)


def test_it_is_benched_one_example_at_a_time(packed: Packed) -> None:
    measured = bench(open_package(packed.path), load=Load(batch_sizes=(1,), seconds=0.05))
    assert [row["batch"] for row in measured["batches"]] == [1]


def test_an_export_that_dies_leaves_nothing(
    quantized: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("squeeze.writers.executorch.PROCESS", "squeeze.writers.no_such_process")
    with pytest.raises(ModelError, match=r"ExecuTorch cannot export the model \(.*No module named"):
        ExecuTorchWriter().write(quantized, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_float_program_is_the_float_graph(model: OnnxModel, batch: Batch, tmp_path: Path) -> None:
    file = ExecuTorchWriter().write(model, tmp_path)
    opened = ExecuTorch.open(file, 1, "it")
    result = np.concatenate([opened.run({"image": batch.image[i : i + 1].numpy()})[0] for i in range(len(batch))])
    assert torch.allclose(torch.from_numpy(result), model.predict(batch), atol=1e-5)
    assert all(layer.scale is None for layer in read_pte(file).layers())
