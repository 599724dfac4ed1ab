"""quantize_static behind rtn or gptq: it adds the ranges of activations and keeps every integer of the weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from grid_world import PER_CHANNEL, context, logits, torch_model
from onnx import numpy_helper
from onnx_world import Noise

from squeeze.errors import EffectError, ModelError
from squeeze.formats.grid_kind import GridKind
from squeeze.formats.onnx_layer import LAYER_OPS
from squeeze.models.onnx_model import OnnxModel
from squeeze.models.torch_model import TorchModel
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.passes.quantize.gptq import Gptq
from squeeze.passes.quantize.quantize_dynamic import QuantizeDynamic
from squeeze.passes.quantize.quantize_static import QuantizeStatic
from squeeze.passes.quantize.rtn import Rtn


@cache
def quantized_and_exported() -> tuple[TorchModel, OnnxModel]:
    """gptq at 8 bits, negative scales and all, and its export."""
    result = Gptq(bits=8, group_size=None).run(torch_model(), context())
    exported = ExportOnnx().run(result, context())
    assert isinstance(result, TorchModel)
    assert isinstance(exported, OnnxModel)
    return result, exported


def initializers(model: OnnxModel, path: Path) -> dict[str, Any]:
    """Read by the onnx package alone."""
    path.write_bytes(model.data)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def test_the_integers_stay_and_only_ranges_come(tmp_path: Path) -> None:
    result, exported = quantized_and_exported()
    static = QuantizeStatic().run(exported, run_context := context())
    stored = initializers(static, tmp_path / "static.onnx")
    for name, grid in result.grid.items():
        assert np.array_equal(stored[f"{name}.integers"].reshape(grid.q.shape), grid.q.numpy())
        assert np.array_equal(stored[f"{name}.scale"].reshape(grid.scale.shape), grid.scale.numpy())
    assert run_context.facts["coverage"]["Conv"] == [3, 3]  # all on integer kernels
    error = (static.predict(Noise(32, seed=1).batch(np.arange(32))) - logits(torch_model())).square().mean()
    assert float(error) < 1e-3 * float(logits(torch_model()).square().mean())
    assert static.marks() == {"quantized", "fully quantized"}


def test_the_ranges_belong_to_the_model_and_are_stored_with_it(tmp_path: Path) -> None:
    static = QuantizeStatic().run(quantized_and_exported()[1], context())
    stored = initializers(static, tmp_path / "static.onnx")
    assert "image" in static.ranges
    for name, grid in static.ranges.items():
        assert (stored[f"{name}.scale"], stored[f"{name}.zero_point"]) == (np.float32(grid.scale), grid.zero_point)
    (tmp_path / "model").mkdir()
    static.save(tmp_path / "model")
    assert OnnxModel.load(tmp_path / "model").ranges == static.ranges
    assert not quantized_and_exported()[1].ranges


def test_a_layer_that_stays_float_keeps_its_integers_too(tmp_path: Path) -> None:
    static = QuantizeStatic(exclude=("grouped",)).run(quantized_and_exported()[1], run_context := context())
    stored = initializers(static, tmp_path / "static.onnx")
    grid = quantized_and_exported()[0].grid["grouped.weight"]
    assert np.array_equal(stored["grouped.weight.integers"].reshape(grid.q.shape), grid.q.numpy())
    assert run_context.facts["uncovered"] == {"grouped": "left out by include / exclude"}


def test_weights_of_four_bits_are_refused_by_what_needs_eight_and_kept_where_it_is_told_to_leave_them() -> None:
    four = Rtn(bits=4, group_size=4, overrides=PER_CHANNEL).run(torch_model(), context())
    exported = ExportOnnx().run(four, context())
    kinds = {name: GridKind.of(grid) for name, grid in four.grid.items()}
    (fault,) = QuantizeStatic().grid_faults(kinds)
    assert fault.startswith(
        "quantize_static: stem: its weights have 4 bits; integer kernels take bits: 8, group_size: "
    )
    (grouped,) = QuantizeStatic(include=("grouped",)).grid_faults(kinds)
    assert "its weights have 4 bits in groups of 36 weights" in grouped
    with pytest.raises(ModelError) as error:
        QuantizeStatic().run(exported, context())
    assert str(error.value) == fault
    assert not list(QuantizeStatic(exclude=("*",)).grid_faults(kinds))


def test_a_cpu_without_room_for_eight_bits_refuses_them() -> None:
    kinds = {name: GridKind.of(grid) for name, grid in quantized_and_exported()[0].grid.items()}
    (fault,) = QuantizeStatic(target_cpu="x86_avx2").grid_faults(kinds)
    assert fault.endswith("its weights have 8 bits, and x86_avx2 takes 7; quantize_static alone would round to them")


def test_scales_that_would_have_to_change_are_not_changed_in_silence() -> None:
    result = Rtn(bits=8, group_size=None).run(torch_model(), context())
    with torch.no_grad():
        result.module.get_parameter("grouped.bias")[0] = 1e9
    exported = OnnxModel(ExportOnnx().run(result, context()).copy_ir())
    with pytest.raises(EffectError, match=r"grouped: its bias is too large for the scale of its weights"):
        QuantizeStatic(bias_correction=False).run(exported, context())


def test_what_is_quantized_with_its_activations_is_not_quantized_again() -> None:
    static, dynamic = QuantizeStatic().run(quantized_and_exported()[1], context()), QuantizeDynamic
    assert static.marks() & QuantizeStatic.refuses == {"fully quantized"}
    assert {"quantized", "fully quantized"} == dynamic.leaves
    assert "quantized" in dynamic.refuses & quantized_and_exported()[1].marks()
    assert QuantizeStatic().promised(quantized_and_exported()[1]) == {"weights_changed"}  # eight bits do not get fewer
    assert any(node.op_type in LAYER_OPS for node in static.ir.graph)
