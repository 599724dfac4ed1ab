"""The operations of a graph: what runtimes fuse counts once, and torch's outline agrees with the graph it becomes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from language_world import write_folder
from torch import Tensor, nn

from squeeze.models.base import InputSpec
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.onnx_model import OnnxModel
from squeeze.models.source import FactorySource
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.passes.quantize.quantize_dynamic import QuantizeDynamic


class Mixed(nn.Module):
    """A layer of each kind, and a shortcut that takes every second place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8), nn.ReLU())
        self.pointwise = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        entered = self.conv(x)
        x = self.pointwise(self.depthwise(entered)) + entered[:, :, ::2, ::2]
        return self.head(torch.softmax(x, 1).mean((2, 3)))


@pytest.fixture(scope="module")
def torch_model() -> TorchModel:
    torch.manual_seed(0)
    source = FactorySource(f"{__name__}:Mixed")
    return TorchModel(Mixed(), source, (InputSpec("image", (3, 16, 16)),))


@pytest.fixture(scope="module")
def graph(torch_model: TorchModel) -> OnnxModel:
    exported = ExportOnnx().run(torch_model, Context())
    assert isinstance(exported, OnnxModel)
    return exported


def test_each_layer_has_its_kind_and_size(graph: OnnxModel) -> None:
    run = graph.operations()
    assert run is not None
    products = [(one.kind, one.macs, round(one.channels**2), one.places) for one in run if one.macs]
    assert products == [
        ("conv", 3 * 8 * 9 * 256, 24, 256),
        ("depthwise", 8 * 9 * 64, 64, 64),
        ("pointwise", 8 * 8 * 64, 64, 64),
        ("matmul", 32, 32, 1),
    ]
    kinds = [one.kind for one in run]
    assert kinds.count("stride") == 2  # one Slice per axis
    assert kinds.count("softmax") == 1


def test_an_activation_is_part_of_its_layer(graph: OnnxModel) -> None:
    """No operation for the two Relu; what is left is the sum, the mean, and the graph's ends."""
    run = graph.operations()
    assert run is not None
    assert any(node.op_type == "Relu" for node in graph.ir.graph)
    assert [one.kind for one in run].count("light") <= 5


def test_torchs_outline_has_the_products_of_its_graph(torch_model: TorchModel, graph: OnnxModel) -> None:
    runs = torch_model.operations(), graph.operations()
    products = [[(o.kind, o.macs, round(o.channels, 3), o.places) for o in run or () if o.macs] for run in runs]
    assert products[0] == products[1]


def test_a_product_that_rounds_its_inputs_is_one_operation(graph: OnnxModel) -> None:
    """DynamicQuantizeLinear, MatMulInteger, Cast, two Mul and the bias are one kernel."""
    quantized = QuantizeDynamic().run(graph, Context())
    before, after = graph.operations(), quantized.operations()
    assert before is not None
    assert after is not None
    assert [one.kind for one in after if one.macs] == ["conv", "depthwise", "pointwise", "dynamic"]
    assert len(after) == len(before)


def test_a_decoder_multiplies_each_weight_once_for_a_token(tmp_path: Path) -> None:
    model = LanguageModel(write_folder(tmp_path / "llama"))
    run = model.operations(cached=100)
    assert run is not None
    weights = sum(shape.rows * shape.channels for shape in model.matrices().values())
    head = model.module.get_output_embeddings().weight.numel()  # type: ignore[operator,union-attr]
    assert sum(one.macs for one in run if one.kind == "matmul") == weights + head
    assert [one.kind for one in run].count("attention") == model.blocks


def test_attention_grows_with_what_is_cached(tmp_path: Path) -> None:
    model = LanguageModel(write_folder(tmp_path / "llama"))
    short, long = (sum(one.macs for one in model.operations(n) or () if one.kind == "attention") for n in (10, 100))
    assert long == 10 * short > 0
