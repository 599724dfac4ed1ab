"""Compress a trained model by a plan, and prove every step.

The names below load what they need when they are first used, so that the command line starts fast.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before anybody imports onnxruntime, which looks up a host

if TYPE_CHECKING:
    from squeeze.data.base import Dataset, Example
    from squeeze.data.choice_sources import LastWordsData, PairsData, QuestionsData
    from squeeze.data.sources import DataSource, DigitsData, FolderData, ImageSource, NpzData
    from squeeze.data.tables import DatasetsData
    from squeeze.data.text import TextData
    from squeeze.errors import EffectError, PlanError, SqueezeError, VerifyError
    from squeeze.evaluate.choice import Choice, ChoiceNorm, LastWord
    from squeeze.evaluate.metrics import (
        ExampleMetric,
        Flips,
        Kl,
        Latency,
        Loss,
        Macs,
        Metric,
        ModelMetric,
        Parameters,
        Perplexity,
        SizeBytes,
        Top1,
        Top5,
    )
    from squeeze.ledger import Ledger, Row
    from squeeze.models.artifact import Artifact
    from squeeze.models.base import Batch, InputSpec, Layer, Model
    from squeeze.models.language.language_model import LanguageModel
    from squeeze.models.onnx_model import OnnxModel
    from squeeze.models.spec import ModelSpec
    from squeeze.models.torch_model import TorchModel
    from squeeze.passes.base import Context, Pass, Preview
    from squeeze.passes.distill.distill import Distill
    from squeeze.passes.distill.finetune import Finetune
    from squeeze.passes.export.export_onnx import ExportOnnx
    from squeeze.passes.prune.prune_channels import PruneChannels
    from squeeze.passes.quantize.backends.auto_round import AutoRound
    from squeeze.passes.quantize.backends.gptqmodel import Gptqmodel
    from squeeze.passes.quantize.backends.neural_compressor import NeuralCompressor
    from squeeze.passes.quantize.float16 import Float16
    from squeeze.passes.quantize.language.awq import Awq
    from squeeze.passes.quantize.language.gptq import Gptq
    from squeeze.passes.quantize.language.hqq import Hqq
    from squeeze.passes.quantize.language.rotate import Rotate
    from squeeze.passes.quantize.language.rtn import Rtn
    from squeeze.passes.quantize.language.smooth import Smooth
    from squeeze.passes.quantize.language.write import Write
    from squeeze.passes.quantize.quantize_dynamic import QuantizeDynamic
    from squeeze.passes.quantize.quantize_static import QuantizeStatic
    from squeeze.plan.plan import Plan
    from squeeze.progress import Progress
    from squeeze.run.result import Run
    from squeeze.run.straight import run
    from squeeze.store import Store
    from squeeze.targets.base import Target
    from squeeze.targets.cpu import Cpu
    from squeeze.targets.mobile import Mobile
    from squeeze.targets.verify import open_package, verify

_ROOMS = {
    "data.base": ["Dataset", "Example"],
    "data.choice_sources": ["LastWordsData", "PairsData", "QuestionsData"],
    "data.sources": ["DataSource", "ImageSource", "DigitsData", "FolderData", "NpzData"],
    "data.tables": ["DatasetsData"],
    "data.text": ["TextData"],
    "errors": ["EffectError", "PlanError", "SqueezeError", "VerifyError"],
    "evaluate.choice": ["Choice", "ChoiceNorm", "LastWord"],
    "evaluate.metrics": [
        "ExampleMetric",
        "Flips",
        "Kl",
        "Latency",
        "Loss",
        "Macs",
        "Metric",
        "ModelMetric",
        "Parameters",
        "Perplexity",
        "SizeBytes",
        "Top1",
        "Top5",
    ],
    "ledger": ["Ledger", "Row"],
    "models.artifact": ["Artifact"],
    "models.base": ["Batch", "InputSpec", "Layer", "Model"],
    "models.language.language_model": ["LanguageModel"],
    "models.onnx_model": ["OnnxModel"],
    "models.spec": ["ModelSpec"],
    "models.torch_model": ["TorchModel"],
    "passes.base": ["Context", "Pass", "Preview"],
    "passes.distill.distill": ["Distill"],
    "passes.distill.finetune": ["Finetune"],
    "passes.export.export_onnx": ["ExportOnnx"],
    "passes.prune.prune_channels": ["PruneChannels"],
    "passes.quantize.backends.auto_round": ["AutoRound"],
    "passes.quantize.backends.gptqmodel": ["Gptqmodel"],
    "passes.quantize.backends.neural_compressor": ["NeuralCompressor"],
    "passes.quantize.float16": ["Float16"],
    "passes.quantize.language.awq": ["Awq"],
    "passes.quantize.language.gptq": ["Gptq"],
    "passes.quantize.language.hqq": ["Hqq"],
    "passes.quantize.language.rotate": ["Rotate"],
    "passes.quantize.language.rtn": ["Rtn"],
    "passes.quantize.language.smooth": ["Smooth"],
    "passes.quantize.language.write": ["Write"],
    "passes.quantize.quantize_dynamic": ["QuantizeDynamic"],
    "passes.quantize.quantize_static": ["QuantizeStatic"],
    "plan.plan": ["Plan"],
    "progress": ["Progress"],
    "run.result": ["Run"],
    "run.straight": ["run"],
    "store": ["Store"],
    "targets.base": ["Target"],
    "targets.cpu": ["Cpu"],
    "targets.mobile": ["Mobile"],
    "targets.verify": ["open_package", "verify"],
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "Artifact",
    "AutoRound",
    "Awq",
    "Batch",
    "Choice",
    "ChoiceNorm",
    "Context",
    "Cpu",
    "DataSource",
    "Dataset",
    "DatasetsData",
    "DigitsData",
    "Distill",
    "EffectError",
    "Example",
    "ExampleMetric",
    "ExportOnnx",
    "Finetune",
    "Flips",
    "Float16",
    "FolderData",
    "Gptq",
    "Gptqmodel",
    "Hqq",
    "ImageSource",
    "InputSpec",
    "Kl",
    "LanguageModel",
    "LastWord",
    "LastWordsData",
    "Latency",
    "Layer",
    "Ledger",
    "Loss",
    "Macs",
    "Metric",
    "Mobile",
    "Model",
    "ModelMetric",
    "ModelSpec",
    "NeuralCompressor",
    "NpzData",
    "OnnxModel",
    "PairsData",
    "Parameters",
    "Pass",
    "Perplexity",
    "Plan",
    "PlanError",
    "Preview",
    "Progress",
    "PruneChannels",
    "QuantizeDynamic",
    "QuantizeStatic",
    "QuestionsData",
    "Rotate",
    "Row",
    "Rtn",
    "Run",
    "SizeBytes",
    "Smooth",
    "SqueezeError",
    "Store",
    "Target",
    "TextData",
    "Top1",
    "Top5",
    "TorchModel",
    "VerifyError",
    "Write",
    "open_package",
    "run",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'squeeze' has no attribute '{name}'")
    return getattr(import_module(f"squeeze.{_ROOM_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOM_OF])
