"""Static int8: fewer bytes, integer kernels, and a failure by name wherever that is not so."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_world import Noise, context, error, exported

from squeeze.errors import DataError, EffectError, ModelError
from squeeze.passes.base import Context, Preview
from squeeze.passes.quantize import onnx_coverage, quantize_static
from squeeze.passes.quantize.onnx_coverage import runtime_operators
from squeeze.passes.quantize.quantize_static import QuantizeStatic


def test_every_layer_runs_on_integers_in_onnx_runtime() -> None:
    lent = context()
    quantized = QuantizeStatic(entry="int8").run(exported(), lent)
    assert lent.facts["coverage"] == {"Add": [1, 1], "Conv": [3, 3], "Gemm": [1, 1], "GlobalAveragePool": [1, 1]}
    assert "uncovered" not in lent.facts
    assert not {"Conv", "Gemm", "Relu", "Clip"} & set(runtime_operators(quantized))


def test_the_size_is_foretold() -> None:
    """Weights become a quarter; scales and the nodes around each layer come on top."""
    before = exported()
    foretold = QuantizeStatic().preview(before, Preview((), None, before.nbytes(), None)).nbytes
    assert foretold == pytest.approx(QuantizeStatic().run(before, context()).nbytes(), rel=0.1)


def test_predictions_stay_close_and_the_weights_take_a_quarter() -> None:
    quantized = QuantizeStatic().run(exported(), context())
    assert error(quantized) < 0.01
    before, after = exported().layers(), quantized.layers()
    assert [layer.parameters for layer in after] == [layer.parameters for layer in before]
    assert after[2].nbytes < before[2].nbytes / 2  # not a quarter: with 16 x 16 weights the scales weigh as much


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "entropy"])
def test_every_calibration_method_gives_a_usable_model(method: str) -> None:
    assert error(QuantizeStatic(method=method).run(exported(), context())) < 0.05  # type: ignore[arg-type]


def test_methods_write_different_files() -> None:
    written = {QuantizeStatic(method=m).run(exported(), context()).data for m in ("minmax", "mse", "percentile")}
    assert len(written) == 3


def test_a_method_that_chooses_the_ranges_of_minmax_fails() -> None:
    with pytest.raises(EffectError, match="method percentile chose the very ranges of minmax for all"):
        QuantizeStatic(method="percentile", percent=100).run(exported(), context())


def test_corrected_biases_win_back_what_rounding_shifted() -> None:
    plain = QuantizeStatic(per_channel=False, bias_correction=False, entry="int8").run(exported(), context())
    corrected = QuantizeStatic(per_channel=False, entry="int8").run(exported(), context())
    assert error(corrected) < error(plain)


@pytest.mark.parametrize(
    ("options", "dtype"),
    [({}, "uint8"), ({"target_cpu": "arm"}, "int8"), ({"activations": "int8", "target_cpu": "arm"}, "int8")],
    ids=["x86", "arm", "asked for"],
)
def test_activations_have_the_type_that_the_processor_likes(options: dict[str, str], dtype: str) -> None:
    quantized = QuantizeStatic(**options).run(exported(), context())  # type: ignore[arg-type]
    zero_points = [v for n, v in quantized.ir.graph.initializers.items() if n.endswith("zero_point") and not v.shape]
    assert {str(value.const_value.dtype.numpy()) for value in zero_points} == {dtype}  # type: ignore[union-attr]


def test_signed_activations_on_x86_fail_because_nothing_would_run_on_integers() -> None:
    with pytest.raises(EffectError, match="ONNX Runtime runs 0 of 1 quantized Add operators on integers"):
        QuantizeStatic(activations="int8", entry="int8").run(exported(), context())


def test_without_vnni_weights_have_seven_bits() -> None:
    quantized = QuantizeStatic(target_cpu="x86_avx2").run(exported(), context())
    weights = [v.const_value for n, v in quantized.ir.graph.initializers.items() if n.endswith("weight.integers")]
    assert max(int(np.abs(tensor.numpy().astype(int)).max()) for tensor in weights if tensor is not None) == 63


def test_the_same_seed_and_data_give_the_same_bytes() -> None:
    assert QuantizeStatic().run(exported(), context()).data == QuantizeStatic().run(exported(), context()).data


def test_an_excluded_layer_stays_float_and_says_so() -> None:
    lent = context()
    quantized = QuantizeStatic(exclude=("depth*",), entry="int8").run(exported(), lent)
    assert lent.facts["coverage"]["Conv"] == [2, 3]
    assert lent.facts["uncovered"] == {"depthwise": "left out by include / exclude"}
    assert "depthwise.weight" in quantized.ir.graph.initializers


def test_a_selector_that_matches_nothing_is_a_fault_with_the_nearest_name() -> None:
    faulty = QuantizeStatic(include=("depthwize",))
    assert list(faulty.faults(exported())) == ["include \"depthwize\" matches no layer; did you mean 'depthwise'?"]
    with pytest.raises(ModelError, match="did you mean 'depthwise'"):
        faulty.run(exported(), context())


def test_excluding_everything_is_a_fault() -> None:
    assert list(QuantizeStatic(exclude=("*",)).faults(exported())) == [
        "include and exclude together leave no layer; a layer that exclude does not match would do"
    ]


def test_a_runtime_that_leaves_operators_float_fails_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        onnx_coverage, "runtime_operators", lambda *_: ["QLinearAdd", "QLinearConv", "Conv", "Conv", "QGemm"]
    )
    with pytest.raises(EffectError, match="ONNX Runtime runs 1 of 3 quantized Conv operators on integers"):
        QuantizeStatic(entry="int8").run(exported(), context())


def test_no_calibration_examples_is_a_data_error() -> None:
    with pytest.raises(DataError, match="noise: no calibration examples"):
        QuantizeStatic().run(exported(), Context(calibration_data=Noise(0)))


def test_the_examples_that_walk_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize_static, "WALK_BYTES", 3 * 16 * 12 * 12 * 4)
    assert len(quantize_static._examples(exported(), context())["image"]) == 3
