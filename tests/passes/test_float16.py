"""Float16: half the bytes; on a CPU the arithmetic stays float32."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from onnx_world import error, exported

from squeeze.errors import EffectError
from squeeze.models.onnx_model import OnnxModel
from squeeze.passes.base import Context
from squeeze.passes.quantize.float16 import Float16


@pytest.mark.parametrize("compute", ["float32", "float16"])
def test_weights_take_half_the_bytes_and_predictions_stay(compute: str) -> None:
    halved = Float16(compute=compute).run(exported(), Context())  # type: ignore[arg-type]
    point = {layer.name: layer for layer in halved.layers()}["point"]
    assert point.nbytes <= 0.55 * {layer.name: layer for layer in exported().layers()}["point"].nbytes
    assert error(halved) < 1e-4


def test_a_second_time_there_is_nothing_left_to_halve() -> None:
    halved = Float16(compute="float16").run(exported(), Context())
    with pytest.raises(EffectError, match="float16: found no float32 weights"):
        Float16(compute="float16").run(halved, Context())


def test_a_weight_that_float16_cannot_hold_is_named() -> None:
    graph_model = exported().copy_ir()
    value = graph_model.graph.initializers["fc.weight"]
    assert value.const_value is not None
    import onnx_ir as ir

    value.const_value = ir.tensor(value.const_value.numpy() * 1e7, name="fc.weight")
    with pytest.raises(EffectError, match=r"float16: 'fc\.weight' holds .*; float16 holds at most 65504"):
        Float16().run(OnnxModel(graph_model), Context())


def test_onnxruntimes_own_quantizer_can_be_imported_afterwards() -> None:
    """It finds modules in a folder that importing the float16 conversion adds to sys.path, and we take away again."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from onnx_world import exported\n"
        "from squeeze.passes.base import Context\n"
        "from squeeze.passes.quantize.float16 import Float16\n"
        "before = list(sys.path)\n"
        "Float16(compute='float16').run(exported(), Context())\n"
        "assert sys.path == before\n"
        "import onnxruntime.quantization\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
