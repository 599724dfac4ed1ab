"""What cannot be a decoder in ONNX is refused by name, before the file or with it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from families import SMALL, write_family
from language_world import in_shards

from squeeze.errors import ModelError
from squeeze.formats.grid_kind import GridKind
from squeeze.models.facts import Facts
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.passes.quantize.rtn import Rtn
from squeeze.runtimes.onnx_decoder import OnnxDecoder
from squeeze.writers.decoder.export import Options, export_decoder


def quantized(folder: Path, **options: object) -> LanguageModel:
    return in_shards(Rtn(**options).run(LanguageModel(folder), Context()))


def test_weights_outside_the_folder_are_refused(tmp_path: Path) -> None:
    decoder = export_decoder(LanguageModel(write_family("llama3.1", tmp_path / "family")), tmp_path / "onnx")
    stored = onnx.load(decoder.main, load_external_data=False)
    for tensor in stored.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../weights.data"
    decoder.main.write_bytes(stored.SerializeToString())
    with pytest.raises(ModelError, match=r"weights in '../weights.data', which is no file beside it; refused"):
        _ = OnnxDecoder(tmp_path / "onnx", decoder.facts).vocabulary
    (tmp_path / "onnx" / "model.onnx.data").unlink()


def test_a_graph_that_is_no_decoder_is_refused(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    facts = Facts(1, 1e-3)
    with pytest.raises(ModelError, match="no decoder: it has no 'input_ids'"):
        _ = OnnxDecoder(tmp_path, facts).vocabulary
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"model.onnx: (not a readable ONNX file|ONNX Runtime refuses)"):
        _ = OnnxDecoder(tmp_path, facts).vocabulary


UNKNOWN = {
    "no attention": ("Mamba", {}, "MambaForCausalLM"),
    "branches on values": (
        "CodeGen",
        {"n_embd": 64, "n_head": 4, "n_layer": 2, "rotary_dim": 8},
        "no graph form of an",
    ),
    "biased experts": (
        "GptOss",
        {"num_local_experts": 4},
        "GptOssExperts holds .*, is_transposed, has_bias; gate_up_proj",
    ),
    "dynamic rotary": (
        "Llama",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}, "max_position_embeddings": 32},
        "rotary positions of type 'dynamic' change with the length of the text",
    ),
}


@pytest.mark.parametrize(("name", "changes", "line"), list(UNKNOWN.values()), ids=list(UNKNOWN))
def test_an_unknown_structure_is_refused_by_name(
    tmp_path: Path, name: str, changes: dict[str, object], line: str
) -> None:
    import transformers

    module = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**SMALL | changes))
    module.save_pretrained(tmp_path / "family")
    with pytest.raises(ModelError, match=f"export_onnx: .*{line}"):
        export_decoder(LanguageModel(tmp_path / "family"), tmp_path / "onnx")


def test_a_group_that_the_operator_cannot_hold_is_refused(tmp_path: Path) -> None:
    model = quantized(write_family("llama3.1", tmp_path / "family"), bits=4, group_size=8)
    with pytest.raises(ModelError, match=r"MatMulNBits has no group_size 8; 16, 32 or null would do"):
        export_decoder(model, tmp_path / "onnx")
    export_decoder(model, tmp_path / "qdq", Options(encoding="qdq"))


def test_what_the_pass_cannot_do_is_known_before(tmp_path: Path) -> None:
    import transformers

    transformers.MambaForCausalLM(transformers.MambaConfig(**SMALL)).save_pretrained(tmp_path)
    (fault,) = ExportOnnx().faults(LanguageModel(tmp_path))
    assert fault.startswith(
        "export_onnx: MambaForCausalLM cannot be traced: before it called attention through transformers' interface: "
    )
    kinds = {"a": GridKind(8, 96, 4, 24, True), "b": GridKind(8, 96, 4, 24, True)}
    (fault,) = ExportOnnx().grid_faults(kinds)
    assert fault == "export_onnx: a: MatMulNBits has no group_size 24; 16, 32, 48 or null would do"
    assert not list(ExportOnnx(weights="qdq").grid_faults(kinds))
