"""Convolutions in two parts: fitted, stored without a pickle, followed by other passes, and refused with one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from grid_world import context, logits, torch_model
from onnx_world import Noise
from onnx_world import torch_model as plain_model
from tiny import PLAN, Killed, faults, write_plan, write_world
from torch import Tensor, nn

from squeeze.errors import DataError, EffectError, ModelError
from squeeze.models.base import InputSpec
from squeeze.models.source import FactorySource
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context, Preview
from squeeze.passes.distill.finetune import Finetune
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.passes.prune.prune_channels import PruneChannels
from squeeze.passes.prune.separable import Separable
from squeeze.passes.quantize.gptq import Gptq
from squeeze.passes.quantize.quantize_static import QuantizeStatic
from squeeze.store import Journal

PASS = '  - pass: "tiny:Scale"\n    factor: 2.0\n'


class Wide(nn.Module):
    """Two convolutions, the second with a stride, holes and a border that is not zero."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 12, 3, padding=1)
        self.second = nn.Conv2d(
            12, 16, (3, 5), stride=2, padding=2, dilation=(2, 1), padding_mode="reflect", bias=False
        )
        self.fc = nn.Linear(16, 7)

    def forward(self, image: Tensor) -> Tensor:
        hidden = torch.relu(self.second(torch.relu(self.first(image))))
        logits: Tensor = self.fc(hidden.mean((2, 3)))
        return logits


class Curious(Wide):
    """Its code asks a convolution for more than its output."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image * self.first.stride[0])


def model(kind: type[nn.Module] = Wide) -> TorchModel:
    return TorchModel(kind(), FactorySource(f"test_separable:{kind.__name__}"), (InputSpec("image", (3, 12, 12)),))


def test_each_convolution_becomes_two_of_the_same_outputs_shape_and_border(tmp_path: Path) -> None:
    dense, result = model(), Separable().run(model(), lent := context())
    depthwise, pointwise = result.module.get_submodule("second").children()
    assert (depthwise.groups, depthwise.stride, depthwise.dilation) == (12, (2, 2), (2, 1))
    assert depthwise.padding_mode == "reflect"
    assert (pointwise.kernel_size, pointwise.bias is not None) == ((1, 1), True)
    assert result.parameters() == dense.parameters() - 3 * 9 * 12 - 12 * 15 * 16 + 3 * (9 + 12) + 12 * (15 + 16) + 16
    assert lent.facts["separated"] == [2, 2]
    result.save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}
    assert torch.equal(logits(TorchModel.load(tmp_path)), logits(result))


def test_a_full_multiplier_would_be_the_same_network_so_a_larger_one_loses_less() -> None:
    dense = logits(model())
    lost = [float((logits(Separable(multiplier=m).run(model(), context())) - dense).norm()) for m in (1, 2)]
    assert lost[1] < lost[0] < float(dense.norm())


def test_a_layer_is_fitted_behind_the_changed_ones_towards_the_originals_outputs() -> None:
    """The same layer alone is fitted to other inputs."""
    both, alone = (Separable(include=include).run(model(), context()) for include in ("*", "second"))
    parts = [result.module.get_submodule("second.depthwise").weight for result in (both, alone)]
    assert not torch.allclose(*parts)


def test_the_row_says_what_each_layer_misses_and_fitting_helped() -> None:
    Separable().run(model(), lent := context())
    errors = lent.facts["output_error"]
    assert list(errors) == ["first", "second"]
    assert all(0 < fitted < nearest for nearest, fitted in errors.values())


def test_a_fit_worse_than_the_nearest_weights_fails_the_run_by_name() -> None:
    facts = {"output_error": {"first": [0.1, 0.2], "second": [0.2, float("nan")]}}
    broken = Separable().check_effect(model(), model(), facts)
    assert broken == [f"fitted {name} to a larger error than the nearest weights have" for name in ("first", "second")]


def test_layers_that_would_not_become_smaller_stay_and_are_named() -> None:
    result = Separable(multiplier=6).run(model(), lent := context())
    assert type(result.module.get_submodule("first")) is nn.Conv2d
    assert lent.facts["skipped"] == {"first": "first would have 390 parameters and has 336"}


def test_a_preview_foretells_the_counts_without_weights() -> None:
    outline = TorchModel.build(model().source, None, model().inputs)
    before = Preview((), outline.parameters(), outline.nbytes(), outline.macs())
    foretold, new = Separable().preview(outline, before), Separable().run(model(), context())
    assert (foretold.parameters, foretold.nbytes, foretold.macs) == (
        new.parameters(),
        new.nbytes(),
        new.macs(),
    )
    assert foretold.touched == ("first", "second")


def test_a_killed_run_goes_on_behind_its_last_finished_layer(tmp_path: Path) -> None:
    whole = Separable().run(model(), first := context())
    with pytest.raises(KeyboardInterrupt):
        Separable().run(model(), context(journal=Journal(tmp_path), progress=Killed(1)))
    assert [file.name for file in tmp_path.iterdir()] == ["layer-00000.safetensors"]
    stamp = (tmp_path / "layer-00000.safetensors").stat().st_mtime_ns
    again = Separable().run(model(), lent := context(journal=Journal(tmp_path)))
    assert (tmp_path / "layer-00000.safetensors").stat().st_mtime_ns == stamp
    assert torch.equal(logits(again), logits(whole))
    assert lent.facts == first.facts


def test_passes_behind_it_train_cut_quantize_and_export_what_it_made(tmp_path: Path) -> None:
    result = Separable().run(model(), Context(threads=1, calibration_data=Noise(24)))
    trained = Finetune(epochs=1, batch_size=8).run(result, Context(train_data=Noise(24)))
    cut = PruneChannels(ratio=0.3, align=1).run(trained, lent := Context())
    assert lent.facts["skipped"]["first.depthwise"] == "its channels are the network's input"
    cut.save(tmp_path)
    read = TorchModel.load(tmp_path)
    assert torch.equal(logits(read), logits(cut))
    exported = ExportOnnx().run(cut, Context())
    torch.testing.assert_close(exported.predict(cut.example(3)), cut.predict(cut.example(3)), atol=1e-4, rtol=1e-4)
    integers = QuantizeStatic().run(exported, Context(calibration_data=Noise(24)))
    assert "quantized" in integers.marks()
    grid = Gptq(bits=8, group_size=None).run(read, context(24)).grid
    assert {"second.depthwise.weight", "second.pointwise.weight"} <= set(grid)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"include": "frist"}, "include \"frist\" matches no layer; did you mean 'first'?"),
        ({"exclude": "fc"}, 'exclude "fc" matches no layer'),
        ({"exclude": ("first", "second")}, 'first is excluded by "first"; a wider include would do'),
        ({"multiplier": 9}, "first would have 579 parameters and has 336; a wider include or a smaller multiplier"),
    ],
)
def test_options_that_leave_nothing_to_do_are_one_line(options: dict[str, object], message: str) -> None:
    (line,) = Separable(**options).faults(model())
    assert message in line


def test_code_that_reads_a_convolution_is_told_beforehand_and_another_include_helps() -> None:
    (line,) = Separable().faults(model(Curious))
    assert "'Sequential' object has no attribute 'stride'" in line
    assert line.endswith("exclude the layers whose code reads them")
    assert not list(Separable(exclude="first").faults(model(Curious)))


def test_a_network_without_such_convolutions_is_told_beforehand() -> None:
    one = plain_model()
    one.module.stem = nn.Conv2d(3, 16, 1)
    (line,) = Separable().faults(one)
    assert line == "separable: the model has no convolution of one group and more than 1 x 1 places; leave it out"
    with pytest.raises(EffectError, match="no convolution of one group"):
        Separable().run(one, context())


def test_after_a_quantizer_it_is_a_fault_of_the_plan_and_an_error_of_the_pass(tmp_path: Path) -> None:
    plan = "  - pass: gptq\n    group_size: null\n  - pass: separable\n"
    (line,) = faults(write_plan(write_world(tmp_path), PLAN, (PASS, plan)))
    assert line == "9: separable must come before gptq (line 7), which leaves the weights quantized"
    quantized = Gptq(bits=8, group_size=None).run(torch_model(), context(24))
    with pytest.raises(ModelError, match="and separable would lose their integers; quantize after it"):
        Separable().run(quantized, context(24))


def test_calibration_without_examples_and_weights_that_are_no_numbers_are_told() -> None:
    with pytest.raises(DataError, match="separable: noise: no calibration examples"):
        Separable().run(model(), context(0))
    broken = model()
    with torch.no_grad():
        broken.module.get_parameter("second.weight")[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match="second: inputs or outputs are not finite; nothing can be fitted to them"):
        Separable().run(broken, context())
