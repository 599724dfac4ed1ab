"""The ONNX form: predicts, counts and stores what the file holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from squeeze.errors import ModelError
from squeeze.models import ort_session
from squeeze.models.base import Batch
from squeeze.models.onnx_model import OnnxModel
from squeeze.runtimes.ort import OnnxRuntimeSession


def classifier(input_name: str = "image", batch: int | str = "n") -> onnx.ModelProto:
    random = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", [input_name, "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "v"], ["logits"], "fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 5])],
        [weight("w", 4, 3, 3, 3), weight("b", 4), weight("v", 4, 5)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return onnx.shape_inference.infer_shapes(proto)


def opened(tmp_path: Path, proto: onnx.ModelProto) -> OnnxModel:
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return OnnxModel.from_file(path)


def images(examples: int) -> Batch:
    return Batch({"image": torch.randn(examples, 3, 8, 8, generator=torch.Generator().manual_seed(0))})


def test_a_foreign_input_name_takes_the_one_image(tmp_path: Path) -> None:
    ours, foreign = opened(tmp_path, classifier()), opened(tmp_path, classifier("input.1"))
    assert torch.equal(ours.predict(images(2)), foreign.predict(images(2)))


def test_a_graph_with_a_fixed_batch_takes_any_number_of_examples(tmp_path: Path) -> None:
    free, fixed = opened(tmp_path, classifier()), opened(tmp_path, classifier(batch=2))
    assert torch.allclose(free.predict(images(5)), fixed.predict(images(5)), atol=1e-6)


def test_layers_say_what_is_stored_and_what_is_multiplied(tmp_path: Path) -> None:
    conv, fc = opened(tmp_path, classifier()).layers()
    assert (conv.name, conv.kind, conv.parameters, conv.nbytes, conv.macs) == ("conv", "Conv", 112, 448, 108 * 64)
    assert (fc.name, fc.parameters, fc.macs, fc.shape) == ("fc", 20, 20, (4, 5))


def test_the_same_model_is_the_same_bytes_before_and_after_the_disk(tmp_path: Path) -> None:
    model = opened(tmp_path, classifier())
    folder = tmp_path / "stored"
    folder.mkdir()
    model.save(folder)
    again = OnnxModel.load(folder)
    assert again.data == model.data == OnnxModel(model.copy_ir()).data
    assert model.nbytes() == (folder / "model.onnx").stat().st_size


def test_changing_a_copy_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = opened(tmp_path, classifier())
    copy = model.copy_ir()
    next(iter(copy.graph)).name = "another"
    assert model.layers()[0].name == "conv"


def test_a_graph_that_the_runtime_refuses_is_one_clear_line(tmp_path: Path) -> None:
    proto = classifier()
    proto.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ModelError, match="ONNX Runtime refuses the model") as caught:
        opened(tmp_path, proto)
    assert "\n" not in str(caught.value)


OPENERS = [
    lambda model: ort_session.open_session(model, 1, "m"),
    lambda model: OnnxRuntimeSession.exact_session(model, 1),
]


def product(session: ort.InferenceSession) -> int:
    return int(session.run(None, {"x": np.full((1, 4), 255, np.uint8)})[0].item())


@pytest.mark.parametrize("opened", OPENERS, ids=["here", "packaged script"])
def test_int8_products_are_exact_on_every_cpu(opened: Callable[[bytes], ort.InferenceSession]) -> None:
    """x86 without VNNI adds pairs of them in 16 bits: 65,534 would come out."""
    assert product(opened(ort_session.PRODUCTS)) == 4 * 255 * 127


@pytest.mark.parametrize("overflow", [False, True])
def test_slower_products_are_used_only_where_the_fast_ones_overflow(
    overflow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags: list[bool] = []
    monkeypatch.setattr(ort_session, "products_overflow", lambda: overflow)
    monkeypatch.setattr(
        ort_session, "_session", lambda *arguments: flags.append(ort_session.EXACT_PRODUCTS in arguments[2])
    )
    ort_session.open_session(ort_session.PRODUCTS, 1, "m")
    assert flags == [overflow]


def test_a_graph_that_has_no_exact_products_is_opened_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime 1.32 cannot rewrite a weight that two nodes share."""
    proto = onnx.load_from_string(ort_session.PRODUCTS)
    proto.graph.node.append(helper.make_node("MatMulInteger", ["x", "w"], ["z"], "second"))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.INT32, [1, 1]))
    monkeypatch.setattr(ort_session, "products_overflow", lambda: True)
    monkeypatch.setattr(ort_session, "_session", refusing_exact(ort_session._session))
    with pytest.warns(UserWarning, match="m: int8 products overflow 16 bits on this CPU"):
        assert ort_session.open_session(proto.SerializeToString(), 1, "m").get_outputs()


def refusing_exact(session: Callable[..., ort.InferenceSession]) -> Callable[..., ort.InferenceSession]:
    """As ONNX Runtime does on every x86 CPU; elsewhere it takes all graphs."""

    def refuse(model: bytes, threads: int, entries: dict[str, str]) -> ort.InferenceSession:
        if ort_session.EXACT_PRODUCTS in entries:
            raise RuntimeError("Attempt to replace the existing tensor")
        return session(model, threads, entries)

    return refuse
