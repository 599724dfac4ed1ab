"""Static int8 on a real MobileNet, whose dead channels and nine-weight layers undo the plain way."""

from __future__ import annotations

from pathlib import Path

import torch

from squeeze.api import load
from squeeze.models.onnx_model import OnnxModel
from squeeze.passes.base import Context
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.passes.quantize.quantize_static import QuantizeStatic

PLAN = Path(__file__).parent.parent.parent / "plans" / "mobilenet-imagenet-int8.yaml"


def divergence(exported: OnnxModel, quantized: OnnxModel, images: dict[str, torch.Tensor]) -> float:
    from squeeze.models.base import Batch

    p, q = (model.predict(Batch(images)).double().log_softmax(1) for model in (exported, quantized))
    return float((p.exp() * (p - q)).sum(1).mean())


def test_corrected_biases_keep_a_mobilenet_close_to_its_original(real: Path) -> None:
    plan = load(PLAN, ["data.calibrate.samples=32"], {"real": str(real)})
    assert plan.model is not None
    exported = ExportOnnx().run(plan.model.read(plan.root), Context(threads=1))
    data, scored = plan.data["calibrate"].open(plan.root), plan.data["evaluate"].open(plan.root)
    images = dict(scored.batch(torch.arange(0, 240, 8).numpy()).inputs)
    plain = QuantizeStatic(bias_correction=False).run(exported, Context(threads=1, calibration_data=data))
    corrected = QuantizeStatic().run(exported, Context(threads=1, calibration_data=data))
    assert divergence(exported, corrected, images) < divergence(exported, plain, images) / 4
    assert corrected.nbytes() < 0.31 * exported.nbytes()
