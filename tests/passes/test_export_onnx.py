"""Export: the same logits, names that a person knows, bytes that depend on the model alone."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from onnx_world import exported, torch_model
from torch import nn

from squeeze.errors import EffectError, ModelError
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context
from squeeze.passes.export.export_onnx import ExportOnnx


def test_logits_agree_at_batch_sizes_that_were_not_traced() -> None:
    model = torch_model()
    for examples in (1, 4, 7):
        batch = model.example(examples)
        assert torch.allclose(model.predict(batch), exported().predict(batch), atol=1e-4)


def test_nodes_are_called_as_the_modules_and_batch_norm_is_folded() -> None:
    assert [layer.name for layer in exported().layers()] == ["stem", "depthwise", "point", "fc"]


def test_the_mean_over_space_has_become_a_pool() -> None:
    operators = {node.op_type for node in exported().ir.graph}
    assert "GlobalAveragePool" in operators
    assert "ReduceMean" not in operators


def test_another_process_writes_the_same_bytes_and_none_of_its_paths() -> None:
    here = Path(__file__).parent
    code = (
        f"import sys; sys.path[:0] = [{str(here)!r}, {str(here.parent.parent)!r}]\n"
        "from hashlib import sha256; from onnx_world import exported; print(sha256(exported().data).hexdigest())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split()[-1] == sha256(exported().data).hexdigest()
    assert str(here).encode() not in exported().data
    assert b".py" not in exported().data


def test_torchs_table_of_operators_is_read_once_and_another_export_writes_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch.onnx._internal._lazy_import import onnxscript_apis  # type: ignore[attr-defined]

    first = exported().data
    table = onnxscript_apis.get_torchlib_ops
    asked = Mock(side_effect=table)
    monkeypatch.setattr(onnxscript_apis, "get_torchlib_ops", asked)
    assert ExportOnnx().run(torch_model(), Context()).data == first  # type: ignore[union-attr]
    assert asked.call_count == 1  # as torch does in each export
    assert table.cache_info().misses == 1


def test_an_export_that_changes_the_logits_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch_model()
    honest = model.predict
    monkeypatch.setattr(model, "predict", lambda batch: honest(batch) + 0.1)
    monkeypatch.setattr(ExportOnnx, "_graph", lambda *_: exported().copy_ir())
    with pytest.raises(EffectError, match="export_onnx: logits differ by"):
        ExportOnnx().run(model, Context())


def test_a_module_that_cannot_be_traced_is_one_line() -> None:
    class Branching(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.mean((2, 3)) if image.sum() > 0 else image.amax((2, 3))

    model = torch_model()
    with pytest.raises(ModelError, match="export_onnx: torch cannot trace the model") as caught:
        ExportOnnx().run(TorchModel(Branching(), model.source, model.inputs), Context())
    assert "\n" not in str(caught.value)
