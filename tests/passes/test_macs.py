"""Multiply-accumulates are counted as by hand, alike in torch and ONNX; what cannot be counted is None."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from language_world import logits, write_folder
from onnx import helper, numpy_helper
from onnx_world import Noise, exported, torch_model
from torch import Tensor, nn

from squeeze.errors import EffectError
from squeeze.formats.onnx_macs import count_macs, total_macs
from squeeze.models.base import InputSpec
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.source import FactorySource
from squeeze.models.torch_macs import MacCounter
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.passes.prune.prune_channels import PruneChannels
from squeeze.passes.quantize.float16 import Float16
from squeeze.passes.quantize.quantize_dynamic import QuantizeDynamic
from squeeze.passes.quantize.quantize_static import QuantizeStatic
from squeeze.passes.quantize.rtn import Rtn

Shapes = dict[str, tuple[int | str, ...]]
ATTENTION = 4 * 7 * 8 * 8 + 2 * 7 * 7 * 8  # four projections of 7 tokens; scores and weighted sum, all heads together


class First(nn.Module):
    """The first output of a layer, flat."""

    def __init__(self, layer: nn.Module, inputs: int = 1) -> None:
        super().__init__()
        self.layer, self.count = layer, inputs

    def forward(self, image: Tensor) -> Tensor:
        output = self.layer(*[image] * self.count)
        flat: Tensor = (output[0] if isinstance(output, tuple) else output).flatten(1)
        return flat


def model(module: nn.Module, *shape: int) -> TorchModel:
    return TorchModel(module, FactorySource("tiny:network"), (InputSpec("image", shape),))


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), (3, 6, 6), 8 * 27 * 36),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), (8, 6, 6), 8 * 9 * 36),
        (nn.ConvTranspose2d(3, 8, 3, stride=2), (3, 6, 6), 3 * 8 * 9 * 36),
        (nn.Linear(4, 5), (4,), 20),
        (nn.GRU(4, 5, batch_first=True), (7, 4), 7 * 15 * 9),
        (nn.LSTM(4, 5, batch_first=True, bidirectional=True), (7, 4), 2 * 7 * 20 * 9),
        (nn.MultiheadAttention(8, 2, batch_first=True), (7, 8), ATTENTION),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (7, 8), ATTENTION + 2 * 7 * 8 * 16),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_torch_layers_are_counted_as_by_hand(layer: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    counted = model(First(layer, 3 if isinstance(layer, nn.MultiheadAttention) else 1), *shape)
    assert counted.macs() == macs
    assert sum(row.macs or 0 for row in counted.layers()) in (macs, macs - 784)  # attention itself is no layer


def test_products_without_a_layer_count_and_those_without_a_rule_are_unknown() -> None:
    class Products(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return (image @ image.mT).flatten(1)

    assert model(Products(), 3, 4).macs() == 3 * 3 * 4
    bilinear = model(First(nn.Bilinear(4, 4, 5), 2), 4)
    assert bilinear.macs() is None
    assert [layer.macs for layer in bilinear.layers()] == [None]


def test_pruning_to_a_share_of_unknown_work_is_refused() -> None:
    module = nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 4), First(nn.Bilinear(4, 4, 5), 2))
    (fault,) = PruneChannels(macs="50 %", align=1).faults(model(module, 4))
    assert fault.endswith('macs "50 %": the multiply-accumulates of the model are unknown: an operator has no rule; '
                          "ratio would do")  # fmt: skip


def graph(
    op: str, inputs: dict[str, tuple[int | str, ...]], weights: dict[str, Any], domain: str = "", **more: Any
) -> ir.Model:
    """One node; its inputs in order, weights last."""
    node = helper.make_node(op, [*inputs, *weights], ["y"], "node", domain=domain, **more)
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    specs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    proto = helper.make_graph([node], "g", specs, [helper.make_empty_tensor_value_info("y")], initializers)
    opsets = [helper.make_opsetid("", 23), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return ir.from_proto(helper.make_model(proto, opset_imports=opsets, ir_version=10))


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("graph_model", "macs"),
    [
        (graph("Conv", {"x": ("n", 3, 6, 6)}, {"w": ones(8, 3, 3, 3)}, pads=[1] * 4), 8 * 27 * 36),
        (graph("Conv", {"x": ("n", 8, 6, 6)}, {"w": ones(8, 1, 3, 3)}, pads=[1] * 4, group=8), 8 * 9 * 36),
        (graph("ConvTranspose", {"x": ("n", 3, 6, 6)}, {"w": ones(3, 8, 3, 3)}), 3 * 8 * 9 * 36),
        (graph("Gemm", {"x": ("n", 4)}, {"w": ones(5, 4)}, transB=1), 20),
        (graph("MatMul", {"x": ("n", "length", 4)}, {"w": ones(4, 5)}), 16 * 20),
        (graph("GRU", {"x": ("n", 7, 4)}, {"w": ones(1, 15, 4), "r": ones(1, 15, 5)}, layout=1), 7 * 15 * 9),
        (graph("Attention", dict.fromkeys("qkv", ("n", 2, 7, 4)), {}), 2 * 7 * 7 * 8),
        (graph("Attention", dict.fromkeys("qkv", ("n", 7, 8)), {}, q_num_heads=2, kv_num_heads=2), 2 * 7 * 7 * 8),
        (graph("Einsum", {"x": ("n", 3, 4), "z": ("n", 4, 5)}, {}, equation="nij,njk->nik"), 60),
        (graph("MultiHeadAttention", {"x": ("n", 7, 8)}, {}, "com.microsoft", num_heads=2), None),
        (graph("Wonder", {"x": ("n", 4)}, {"w": ones(4, 5)}, "custom"), None),
        (graph("Relu", {"x": ("n", 4)}, {}), 0),
    ],
    ids=lambda value: next(iter(value.graph)).op_type if isinstance(value, ir.Model) else "",
)
def test_onnx_operators_are_counted_as_by_hand(graph_model: ir.Model, macs: int | None) -> None:
    """A free batch is one example, a free length 16; an operator without a rule is None."""
    assert total_macs(count_macs(graph_model, 16)) == macs


def test_every_form_of_one_model_says_the_same() -> None:
    """Exported, rounded, halved: nothing was cut; pruned: both forms say how much was."""
    macs = torch_model().macs()
    assert macs == 144 * (16 * 27 + 16 * 9 + 16 * 16) + 16 * 7
    context = Context(threads=1, calibration_data=Noise())
    passes = [QuantizeStatic(entry="int8", bias_correction=False), QuantizeDynamic(layers="all"), Float16()]
    assert {exported().macs(), *(pass_.run(exported(), context).macs() for pass_ in passes)} == {macs}
    pruned = PruneChannels(ratio=0.5, scope="layer").run(torch_model(), Context())
    assert ExportOnnx().run(pruned, Context(threads=1)).macs() == pruned.macs() < macs


def test_a_language_model_counts_its_tied_head_and_attention_per_token(tmp_path: Any) -> None:
    tied = LanguageModel(write_folder(tmp_path, tie_word_embeddings=True, max_position_embeddings=48))
    hidden, heads, kv, wide, tokens = 64, 64, 32, 96, 48
    block = hidden * (2 * heads + 2 * kv + 3 * wide) + 2 * tokens * heads
    assert tied.macs() == 2 * block + 128 * hidden
    assert Rtn(group_size=32).run(tied, Context()).macs() == tied.macs()
    assert sum(layer.macs or 0 for layer in tied.layers()) == tied.macs() - 2 * 2 * tokens * heads


def test_each_structure_of_a_language_model_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, same = (LanguageModel(write_folder(tmp_path / name, intermediate_size=80)) for name in ("one", "same"))
    macs = one.macs()
    with monkeypatch.context() as counted_no_more:
        counted_no_more.setattr(MacCounter, "watching", None)
        assert same.macs() == macs
    others = [{"num_hidden_layers": 1}, {"intermediate_size": 48}, {"max_position_embeddings": 32}]
    for number, other in enumerate(others):
        assert LanguageModel(write_folder(tmp_path / str(number), **{"intermediate_size": 80} | other)).macs() < macs


def test_which_experts_a_router_takes_is_unknown(tmp_path: Any) -> None:
    routed = LanguageModel(write_folder(tmp_path, "Mixtral", num_local_experts=4))
    assert routed.macs() is None
    assert None in {layer.macs for layer in routed.layers()}


def test_what_a_network_keeps_while_it_is_counted_does_not_stay(tmp_path: Path) -> None:
    """Positions that are kept from one call to the next would lie on the meta device afterwards."""

    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 5)
            self.image: Tensor | None = None

        def forward(self, image: Tensor) -> Tensor:
            self.image = torch.zeros_like(image) if self.image is None else self.image
            return self.fc(image + self.image)

    keeping = model(Keeping(), 4)
    assert keeping.macs() == 20
    assert keeping.predict(keeping.example()).device.type == "cpu"
    long = {
        "rope_type": "longrope",
        "factor": 2.0,
        "long_factor": [1.5] * 8,
        "short_factor": [1.1] * 8,
        "rope_theta": 1e4,
    }
    sizes = {"max_position_embeddings": 64, "original_max_position_embeddings": 32, "pad_token_id": 0}
    folder = write_folder(tmp_path, "Phi3", rope_parameters=long | {"original_max_position_embeddings": 32}, **sizes)
    counted, fresh = LanguageModel(folder), LanguageModel(folder)
    assert counted.macs() is not None
    assert torch.equal(logits(counted), logits(fresh))


def test_code_that_looks_at_values_is_counted_where_it_runs() -> None:
    class Choosy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 5)

        def forward(self, image: Tensor) -> Tensor:
            return self.fc(image) if float(image.sum()) > -1e9 else image

    assert model(Choosy(), 4).macs() == 20
    assert torch.is_grad_enabled()
    with pytest.raises(EffectError, match="unknown"):
        PruneChannels(macs="50 %").run(model(First(nn.Bilinear(4, 4, 5), 2), 4), Context())
