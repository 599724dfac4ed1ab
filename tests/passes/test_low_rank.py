"""Layers of low rank: spread, fitted, stored without a pickle, followed by other passes, and refused with one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from grid_world import context, logits
from onnx_world import Noise
from test_separable import Curious, model
from tiny import PLAN, Killed, faults, write_plan, write_world
from torch import nn

from squeeze.errors import DataError, ModelError
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context, Preview
from squeeze.passes.distill.finetune import Finetune
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.passes.prune.low_rank import LowRank
from squeeze.passes.quantize.gptq import Gptq
from squeeze.passes.quantize.quantize_static import QuantizeStatic
from squeeze.store import Journal

PASS = '  - pass: "tiny:Scale"\n    factor: 2.0\n'
HALF = LowRank(ratio=0.5, align=1)


def test_convolutions_and_linear_layers_become_two_of_the_same_outputs_shape(tmp_path: Path) -> None:
    dense, result = model(), LowRank(ratio=0.3, align=1).run(model(), lent := context())
    assert logits(result).shape == logits(dense).shape
    assert result.parameters() <= dense.parameters() - 0.3 * (3 * 9 * 12 + 12 * 15 * 16 + 16 * 7)
    first, second = result.module.get_submodule("second").children()
    assert (first.kernel_size, first.stride, first.dilation, first.padding_mode) == ((3, 5), (2, 2), (2, 1), "reflect")
    assert (second.kernel_size, second.bias is not None) == ((1, 1), True)
    assert all(0 < rank < full for rank, full in lent.facts["ranks"].values())
    result.save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}
    assert torch.equal(logits(TorchModel.load(tmp_path)), logits(result))


def test_a_linear_layer_is_stored_as_two(tmp_path: Path) -> None:
    result = LowRank(ratio=0.2, align=1, include="fc").run(model(), context())
    first, second = result.module.get_submodule("fc").children()
    assert [type(part) for part in (first, second)] == [nn.Linear, nn.Linear]
    result.save(tmp_path)
    assert torch.equal(logits(TorchModel.load(tmp_path)), logits(result))


def test_more_parameters_lose_less() -> None:
    dense = logits(model())
    lost = [
        float((logits(LowRank(ratio=ratio, align=1).run(model(), context())) - dense).norm()) for ratio in (0.7, 0.2)
    ]
    assert lost[1] < lost[0] < float(dense.norm())


def test_a_share_of_the_whole_model_is_kept_to() -> None:
    dense = model()
    result = LowRank(parameters="60 %", align=1).run(model(), lent := context())
    assert 0.5 * dense.parameters() < result.parameters() <= 0.6 * dense.parameters()
    assert all(fitted < nearest for nearest, fitted in lent.facts["output_error"].values())


def test_a_preview_is_near_what_comes_out() -> None:
    outline = TorchModel.build(model().source, None, model().inputs)
    before = Preview((), outline.parameters(), outline.nbytes(), outline.macs())
    foretold, new = HALF.preview(outline, before), HALF.run(model(), context())
    assert foretold.parameters == pytest.approx(new.parameters(), rel=0.1)
    assert not foretold.exact


def test_a_killed_run_goes_on_behind_its_last_finished_layer(tmp_path: Path) -> None:
    whole = HALF.run(model(), first := context())
    with pytest.raises(KeyboardInterrupt):
        HALF.run(model(), context(journal=Journal(tmp_path), progress=Killed(1)))
    again = HALF.run(model(), lent := context(journal=Journal(tmp_path)))
    assert torch.equal(logits(again), logits(whole))
    assert lent.facts == first.facts


def test_passes_behind_it_train_quantize_and_export_what_it_made() -> None:
    result = HALF.run(model(), Context(threads=1, calibration_data=Noise(24)))
    trained = Finetune(epochs=1, batch_size=8).run(result, Context(train_data=Noise(24)))
    exported = ExportOnnx().run(trained, Context())
    torch.testing.assert_close(
        exported.predict(trained.example(3)), trained.predict(trained.example(3)), atol=1e-4, rtol=1e-4
    )
    assert "quantized" in QuantizeStatic().run(exported, Context(calibration_data=Noise(24))).marks()
    grid = Gptq(bits=8, group_size=None).run(trained, context(24)).grid
    assert {"second.first.weight", "second.second.weight"} <= set(grid)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.5, "include": "frist"}, "include \"frist\" matches no layer; did you mean 'first'?"),
        ({"ratio": 0.5, "align": 64}, "first is 12 x 27: rank 12 would be no smaller; a wider include or a smaller"),
        ({"ratio": 0.99, "align": 1}, r"low_rank: ratio: 0.99 takes away 3,"),
        ({"parameters": "1 %"}, "low_rank: parameters: 1 % takes away "),
        ({"parameters": "10M"}, "low_rank: parameters: 10M takes away -"),
    ],
)
def test_options_that_cannot_be_met_are_one_line(options: dict[str, object], message: str) -> None:
    (line,) = LowRank(**options).faults(model())
    assert message in line


@pytest.mark.parametrize("options", [{}, {"ratio": 0.5, "parameters": "50 %"}])
def test_one_goal_is_named(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="name one of ratio and parameters"):
        LowRank(**options)


def test_code_that_reads_a_layer_is_told_beforehand() -> None:
    (line,) = HALF.faults(model(Curious))
    assert "'Sequential' object has no attribute 'stride'" in line
    assert not list(LowRank(ratio=0.5, align=1, exclude="first").faults(model(Curious)))


def test_after_a_quantizer_it_is_a_fault_of_the_plan(tmp_path: Path) -> None:
    plan = "  - pass: gptq\n    group_size: null\n  - pass: low_rank\n    ratio: 0.5\n    align: 1\n"
    (line,) = faults(write_plan(write_world(tmp_path), PLAN, (PASS, plan)))
    assert line == "9: low_rank must come before gptq (line 7), which leaves the weights quantized"


def test_calibration_without_examples_and_weights_that_are_no_numbers_are_told() -> None:
    with pytest.raises(DataError, match="low_rank: noise: no calibration examples"):
        HALF.run(model(), context(0))
    broken = model()
    with torch.no_grad():
        broken.module.get_parameter("second.weight")[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match="second: inputs or outputs are not finite; nothing can be fitted to them"):
        HALF.run(broken, context())
