"""rtn and gptq on networks in memory: every kind of convolution on the one grid, and its integers in the ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from grid_world import PER_CHANNEL, context, logits, torch_model, transposed_model
from onnx import numpy_helper
from tiny import Killed
from torch import nn
from torch.nn import functional

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import DataError, EffectError, ModelError
from squeeze.formats.grid_kind import GridKind
from squeeze.models.onnx_model import OnnxModel
from squeeze.models.torch_model import TorchModel
from squeeze.passes.distill.finetune import Finetune
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.passes.layer_inputs import unfolded
from squeeze.passes.prune.prune_channels import PruneChannels
from squeeze.passes.quantize.gptq import Gptq
from squeeze.passes.quantize.hqq import Hqq
from squeeze.passes.quantize.layers.norms import fold_norms
from squeeze.passes.quantize.rtn import Rtn
from squeeze.store import Journal
from squeeze.writers import onnx_grid as export_grid

GROUPS: dict[str, Any] = {"group_size": 4, "overrides": PER_CHANNEL}
PLAIN: dict[str, Any] = {"group_size": None}


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Conv2d(4, 8, (3, 1), padding="same", dilation=2, groups=4),
        nn.Conv2d(4, 6, 3, padding=2, groups=2, padding_mode="circular"),
        nn.Conv1d(4, 6, 3, stride=2, padding=1),
        nn.Linear(4, 6),
    ],
    ids=["stride", "depthwise", "grouped", "1-D", "linear"],
)
def test_unfolded_inputs_times_the_weight_are_what_the_layer_gives(layer: Any) -> None:
    x = torch.randn((3, 7, 4) if isinstance(layer, nn.Linear) else (3, 4, 9, 8)[: layer.weight.dim()])
    (X,) = unfolded(layer, x)
    groups = len(X)
    matrices = layer.weight.detach().reshape(groups, -1, X.shape[-1])
    got = (X @ matrices.transpose(1, 2)).permute(0, 2, 1)  # [groups, out, tokens]
    expected = layer(x).detach() if isinstance(layer, nn.Linear) else layer(x).detach().movedim(1, -1)
    expected = expected - layer.bias.detach()
    torch.testing.assert_close(got.reshape(-1, got.shape[-1]).t(), expected.reshape(-1, expected.shape[-1]))


@pytest.mark.parametrize("options", [PLAIN, GROUPS], ids=["per-channel", "per-group"])
def test_gptq_loses_less_than_rounding_in_every_layer_and_in_the_logits(options: dict[str, Any]) -> None:
    original, rounded = torch_model(), Rtn(bits=3, **options).run(torch_model(), context())
    corrected = Gptq(bits=3, **options).run(torch_model(), lent := context())
    layers = lent.facts["layers"]
    assert list(layers) == ["stem.weight", "depthwise.weight", "grouped.weight", "fc.weight"]  # as they run
    assert all(facts["loss"] <= facts["loss_rtn"] for facts in layers.values())
    error = {m: float((logits(m) - logits(original)).square().mean()) for m in (rounded, corrected)}
    assert error[corrected] < error[rounded]


def test_a_layer_is_calibrated_on_what_its_quantized_predecessors_give() -> None:
    """The first layer's integers are the same either way, the later ones' are not."""
    after, alone = (
        Gptq(bits=3, target="given", true_sequential=on, **PLAIN).run(torch_model(), context()) for on in (True, False)
    )
    same = {name: torch.equal(after.grid[name].q, alone.grid[name].q) for name in after.grid}
    assert same["stem.weight"]
    assert not all(same.values())


def test_a_group_is_some_input_channels_with_all_places_of_the_kernel() -> None:
    result = Rtn(bits=4, **GROUPS).run(torch_model(), context())
    assert result.grid["grouped.weight"].scale.shape == (16, 2)  # 8 input channels per group of the convolution
    assert result.grid["grouped.weight"].group_size == 4 * 9
    assert result.grid["fc.weight"].scale.shape == (7, 4)


def test_what_is_stored_and_counted_is_integers_and_what_is_read_back_the_same(tmp_path: Path) -> None:
    original, result = torch_model(), Gptq(bits=4, **GROUPS).run(torch_model(), context())
    result.save(tmp_path)
    read = TorchModel.load(tmp_path)
    assert torch.equal(logits(read), logits(result))
    assert all(_same(read.grid[name], result.grid[name]) for name in result.grid)
    assert read.nbytes() == result.nbytes() < original.nbytes() / 3
    weights = sum(grid.q.numel() for grid in result.grid.values())
    packed = {layer.name: layer.nbytes for layer in read.layers()}
    assert sum(packed.values()) == read.nbytes()
    assert packed["grouped"] == 16 * 72 // 2 + 16 * 2 * 2 + 16 * 4  # 4 bits, float16 scales, a float32 bias
    on_disk = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert on_disk < weights * 4  # what they were as floats, headers and biases not counted
    assert "quantized" in read.marks()


@pytest.mark.parametrize(
    ("options", "bits"), [({"bits": 8, **PLAIN}, 8), ({"bits": 4, **GROUPS, "symmetric": False}, 4)], ids=["8", "4"]
)
def test_the_onnx_file_holds_the_integers_of_the_grid(tmp_path: Path, options: dict[str, Any], bits: int) -> None:
    """Read by the onnx package alone; what ONNX Runtime sees is proven by the pass itself."""
    result = Gptq(**options).run(torch_model(), context())
    exported = ExportOnnx().run(result, lent := context())
    assert [(line["reader"], line["differing"]) for line in lent.facts["proof"]] == [
        ("squeeze", 0),
        ("onnxruntime", 0),
    ]
    (tmp_path / "model.onnx").write_bytes(exported.data)
    stored = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer
    }
    for name, grid in result.grid.items():
        integers = stored[f"{name}.integers"]
        assert integers.dtype == (np.int8 if bits == 8 else ml_dtypes.int4)
        assert np.array_equal(integers.astype(np.int8).reshape(grid.q.shape), grid.q.numpy())
        assert np.array_equal(stored[f"{name}.scale"].reshape(grid.scale.shape), grid.scale.numpy())
        assert np.array_equal(stored[f"{name}.zero_point"].astype(np.int32).reshape(grid.scale.shape), grid.zero_point)
    floats = [name for name, array in stored.items() if array.dtype == np.float32 and array.ndim > 1]
    assert all(name.endswith(".scale") for name in floats)
    torch.testing.assert_close(exported.predict(_images()), logits(result), atol=1e-4, rtol=1e-4)
    assert OnnxModel.from_file(tmp_path / "model.onnx").marks() == {"quantized"}


def test_a_file_with_other_integers_is_not_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    result = Rtn(bits=4, **PLAIN).run(torch_model(), context())
    store = export_grid.store_grid

    def shifted(node: Any, grid: QuantizedTensor) -> None:
        q = grid.q.clone()
        q[0, 0] += 1 if q[0, 0] < 7 else -1
        store(node, QuantizedTensor(q, grid.scale, grid.zero_point, grid.bits, grid.group_size, grid.symmetric))

    monkeypatch.setattr(export_grid, "store_grid", shifted)
    with pytest.raises(EffectError, match=r"'stem.weight' is read back with other integers or scales"):
        ExportOnnx().run(result, context())


def test_a_killed_run_goes_on_behind_its_last_finished_layer(tmp_path: Path) -> None:
    whole = Gptq(bits=4, **PLAIN).run(torch_model(), lent := context())
    with pytest.raises(KeyboardInterrupt):
        Gptq(bits=4, **PLAIN).run(torch_model(), context(journal=Journal(tmp_path), progress=Killed(2)))
    times = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert sorted(times) == ["layer-00000.safetensors", "layer-00001.safetensors"]
    resumed = Gptq(bits=4, **PLAIN).run(torch_model(), again := context(journal=Journal(tmp_path)))
    assert all(_same(resumed.grid[name], whole.grid[name]) for name in whole.grid)
    assert again.facts == lent.facts
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in times} == times  # taken, not made again


def test_a_norm_is_folded_where_it_alone_reads_a_convolution() -> None:
    class ReadTwice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.bn_one = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
            self.two, self.bn_two = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
            for bn in (self.bn_one, self.bn_two):
                assert bn.running_mean is not None
                bn.running_mean += 1.0

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            x = self.two(self.bn_one(self.one(image)))
            return functional.adaptive_avg_pool2d(self.bn_two(x).relu() + x, 1).flatten(1)

    torch.manual_seed(0)
    model = TorchModel(ReadTwice(), torch_model().source, torch_model().inputs)
    before = logits(model)
    assert fold_norms(model) == ["bn_one"]
    torch.testing.assert_close(logits(model), before, atol=1e-4, rtol=1e-4)


def test_hqq_has_the_same_layers() -> None:
    assert set(Hqq(bits=4, **PLAIN).run(torch_model(), context()).grid) == {
        f"{name}.weight" for name in ("stem", "depthwise", "grouped", "fc")
    }


@pytest.mark.parametrize(
    ("method", "fault"),
    [
        (Rtn(group_size=4), "rtn: group_size 4 does not divide the 3 inputs of *.stem; null would"),
        (Gptq(group_size=3, include="grouped"), "gptq: group_size 3 does not divide the 8 inputs of *.grouped; 2, 4"),
        (Rtn(group_size=None, include="groped"), "rtn: \"groped\" matches no weight; did you mean '*.grouped'?"),
        (Rtn(group_size=None, exclude="*"), "rtn: include and exclude leave no weight to quantize"),
    ],
    ids=["stem", "grouped", "spelling", "nothing"],
)
def test_options_that_do_not_fit_are_one_line_before_and_while_it_runs(method: Any, fault: str) -> None:
    (line,) = {line for line in method.faults(torch_model().outline()) if line.startswith(fault)}
    with pytest.raises(ModelError) as error:
        method.run(torch_model(), context())
    assert str(error.value) == line


def test_a_transposed_convolution_that_is_asked_for_is_said_to_have_no_grid() -> None:
    (fault,) = Rtn(group_size=None, include=("0", "1")).faults(transposed_model().outline())
    assert fault == "rtn: 1: a ConvTranspose2d has no grid; 0, 3 would do"
    result = Rtn(group_size=None).run(transposed_model(), context())
    assert set(result.grid) == {"0.weight", "3.weight"}  # not asked for, it stays as it is


def test_no_calibration_data_is_one_line() -> None:
    with pytest.raises(DataError, match=r"^gptq: noise: no calibration examples$"):
        Gptq(group_size=None).run(torch_model(), context(0))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Rtn(bits=4, group_size=None), "gptq: 4 weights are quantized already"),
        (Finetune(), "training would lose their integers; quantize after it"),
        (PruneChannels(ratio=0.5, importance="l1"), "pruning would lose their integers; quantize after it"),
    ],
    ids=["quantize", "train", "prune"],
)
def test_passes_that_would_lose_the_integers_refuse_them(method: Any, message: str) -> None:
    result = Gptq(bits=4, **PLAIN).run(torch_model(), context())
    assert "quantized" in type(method).refuses & result.marks()
    with pytest.raises(ModelError, match=message.replace("gptq", "rtn")):
        method.run(result, context(train_data=context().calibration_data))


def test_an_operator_set_without_int4_is_refused_where_it_is_set() -> None:
    grid = {"stem.weight": GridKind(16, 27, 4, None, True)}
    (fault,) = ExportOnnx(opset=20).grid_faults(grid, torch_model())
    assert fault == "export_onnx: stem.weight: opset 20 has neither int4 nor groups; 21 would do"
    assert not list(ExportOnnx().grid_faults(grid, torch_model()))  # not set: raised
    ordered = {"fc.weight": GridKind(7, 16, 4, 4, True, ordered=True)}
    (fault,) = ExportOnnx().grid_faults(ordered, torch_model())
    assert fault.endswith("order: group_aware would do")


def _images() -> Any:
    from onnx_world import Noise

    return Noise(32, seed=1).batch(np.arange(32))


def _same(one: QuantizedTensor, other: QuantizedTensor) -> bool:
    return all(torch.equal(getattr(one, part), getattr(other, part)) for part in ("q", "scale", "zero_point"))
