"""Dynamic int8: matrices on integers without calibration; convolutions only when asked for."""

from __future__ import annotations

from onnx_world import error, exported

from squeeze.models.onnx_model import OnnxModel
from squeeze.passes.base import Context
from squeeze.passes.quantize.float16 import Float16
from squeeze.passes.quantize.quantize_dynamic import QuantizeDynamic


def test_matrices_become_integers_and_convolutions_stay() -> None:
    lent = Context(threads=1)
    quantized = QuantizeDynamic().run(exported(), lent)
    assert lent.facts["coverage"]["Gemm"] == [1, 1]
    assert lent.facts["coverage"]["Conv"] == [0, 3]
    assert quantized.ir.graph.initializers["fc.weight.integers"].dtype is not None


def test_a_classifier_in_integers_is_off_by_rounding_only() -> None:
    assert error(QuantizeDynamic().run(exported(), Context(threads=1))) < 1e-3


def test_convolutions_follow_when_asked_for() -> None:
    lent = Context(threads=1)
    quantized = QuantizeDynamic(layers="all").run(exported(), lent)
    assert lent.facts["coverage"]["Conv"] == [3, 3]
    assert quantized.nbytes() < exported().nbytes()
    assert error(quantized) < 0.1


def test_a_selector_over_convolutions_points_to_the_option() -> None:
    assert list(QuantizeDynamic(include=("stem",)).faults(exported())) == [
        'include "stem" matches no layer; there is fc'
    ]


def test_weights_that_an_old_file_lists_as_inputs_are_no_inputs_of_the_result() -> None:
    old = exported().copy_ir()
    old.graph.inputs.extend(value for value in old.graph.initializers.values() if value not in old.graph.inputs)
    model = OnnxModel(old, "old.onnx")
    assert [spec.name for spec in model.inputs] == ["image"]
    for pass_ in (QuantizeDynamic(), Float16()):
        assert [spec.name for spec in pass_.run(model, Context(threads=1)).inputs] == ["image"]
