"""quantize_static with rounding: gptq: integers chosen on what the layers before give, beside the ranges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from grid_world import context as grid_context
from grid_world import torch_model
from onnx import TensorProto, helper
from onnx_world import context, error, exported
from pydantic import ValidationError
from torch.nn import functional

from squeeze.api import load
from squeeze.formats.onnx_grid import stored_grid
from squeeze.models.base import Batch
from squeeze.models.onnx_model import OnnxModel
from squeeze.models.ort_session import open_session
from squeeze.passes.base import Context
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.passes.quantize.gptq import Gptq
from squeeze.passes.quantize.onnx_rounding import unfolded
from squeeze.passes.quantize.quantize_static import QuantizeStatic

PLAN = Path(__file__).parent.parent.parent / "plans" / "mobilenet-phone.yaml"


def in_onnx_runtime(x: np.ndarray, weight: np.ndarray, options: dict[str, object]) -> list[np.ndarray]:
    node = helper.make_node("Conv", ["x", "w"], ["y"], **options)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xwy"]
    model = helper.make_model(
        helper.make_graph([node], "one", ends[:2], ends[2:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    outputs: list[np.ndarray] = open_session(model.SerializeToString(), 1, "it").run(None, {"x": x, "w": weight})
    return outputs


def convolution(weight: torch.Tensor, **options: object) -> ir.Node:
    """A Conv with a stored weight."""
    array = weight.numpy()
    value = ir.Value(name="weight", const_value=ir.Tensor(array, name="weight"), shape=ir.Shape(array.shape))
    return ir.node("Conv", [ir.Value(name="x"), value], options, name="conv")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("groups", "strides", "pads"),
    [(1, [1, 1], [1, 1, 1, 1]), (4, [2, 2], [0, 0, 1, 1]), (2, [1, 2], [2, 0, 0, 1])],
    ids=["dense", "depthwise, padded behind", "groups, padded unevenly"],
)
def test_unfolded_inputs_times_the_weight_are_the_convolution(groups: int, strides: list[int], pads: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 7, 8, generator=generator)
    weight = torch.randn(8, 4 // groups, 3, 3, generator=generator)
    node = convolution(weight, group=groups, strides=strides, pads=pads)
    rows = unfolded(node, x.numpy())
    products = torch.cat([X @ part.t() for X, part in zip(rows, weight.flatten(1).chunk(groups), strict=True)], dim=1)
    padded = functional.pad(x, (pads[1], pads[3], pads[0], pads[2]))
    expected = functional.conv2d(padded, weight, stride=tuple(strides), groups=groups)
    assert torch.allclose(products, expected.movedim(1, 3).flatten(0, 2), atol=1e-5)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("automatic", ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
def test_any_number_of_axes_and_any_padding_is_unfolded_as_the_runtime_does_it(axes: int, automatic: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, *(9, 8, 7)[:axes], generator=generator).numpy()
    weight = torch.randn(6, 2, *(4, 3, 2)[:axes], generator=generator)
    dilations = [1, 2, 1][:axes] if automatic in ("VALID", "NOTSET") else [1] * axes  # as ONNX Runtime has them
    options = {"group": 2, "strides": [2] * axes, "dilations": dilations, "auto_pad": automatic}
    rows = unfolded(convolution(weight, **options), x)
    products = torch.cat([X @ part.t() for X, part in zip(rows, weight.flatten(1).chunk(2), strict=True)], dim=1)
    (expected,) = in_onnx_runtime(x, weight.numpy(), options)
    assert torch.allclose(products, torch.from_numpy(expected).movedim(1, -1).flatten(0, -2), atol=1e-5)


def test_predictions_come_nearer_and_the_file_stays_as_large() -> None:
    nearest = QuantizeStatic(entry="int8").run(exported(), context(200))
    solved = QuantizeStatic(entry="int8", rounding="gptq").run(exported(), context(200))
    assert error(solved) < error(nearest)
    assert solved.nbytes() == pytest.approx(nearest.nbytes(), rel=0.01)


def test_the_same_data_give_the_same_bytes() -> None:
    options = QuantizeStatic(rounding="gptq")
    assert options.run(exported(), context()).data == options.run(exported(), context()).data


def test_integers_that_a_pass_before_has_chosen_stay() -> None:
    before = Gptq(bits=8, group_size=None).run(torch_model(), grid_context())
    graph = ExportOnnx().run(before, grid_context())
    assert isinstance(graph, OnnxModel)
    after = QuantizeStatic(rounding="gptq", entry="int8").run(graph, context())
    grids = {str(node.name): stored_grid(node) for node in after.ir.graph}
    for name, grid in before.grid.items():
        now = grids[name.removesuffix(".weight")]
        assert now is not None
        assert torch.equal(now.q, grid.q)


@pytest.mark.parametrize("option", ["per_channel", "bias_correction"])
def test_options_that_it_cannot_go_without_are_named(option: str) -> None:
    with pytest.raises(ValidationError, match="goes with per_channel: true and bias_correction: true"):
        QuantizeStatic.model_validate({"rounding": "gptq", option: False})


def test_a_graph_that_takes_one_image_at_a_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """One image says too little of what goes into a layer; nearest in silence would be worse than a refusal."""
    monkeypatch.setattr(OnnxModel, "fixed_batch", 1)
    (fault,) = QuantizeStatic(rounding="gptq").faults(exported())
    assert fault == "rounding: gptq needs many examples at once, and the graph takes one; rounding: nearest would do"


def test_on_a_mobilenet_it_follows_the_original_more_closely(real: Path) -> None:
    """Calibrated on 32 images, held against the float network on 32 other ones that the plan calibrates on."""
    plan = load(PLAN, [], {"real": str(real)})
    assert plan.model is not None
    graph = ExportOnnx().run(plan.model.read(plan.root), Context(threads=1))
    assert isinstance(graph, OnnxModel)
    data = load(PLAN, ["data.calibrate.samples=32"], {"real": str(real)}).data["calibrate"].open(plan.root)
    images = dict(plan.data["calibrate"].open(plan.root).batch(np.arange(32, 64)).inputs)
    early = ("*.layer.[0-6].convolution",)
    lent = Context(threads=1, calibration_data=data)
    nearest, gptq = (
        QuantizeStatic(method="minmax", exclude=early, rounding=rounding).run(graph, lent)  # type: ignore[arg-type]
        for rounding in ("nearest", "gptq")
    )
    p, *others = (model.predict(Batch(images)).double().log_softmax(1) for model in (graph, nearest, gptq))
    near, solved = (float((p.exp() * (p - q)).sum(1).mean()) for q in others)
    assert solved < 0.8 * near
