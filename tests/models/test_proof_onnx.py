"""What an exported decoder's file holds is the grid, bit for bit: unpacked by us, and run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from families import FAMILIES, tokens, write_family

from squeeze.data.text import TokenDataset
from squeeze.errors import ModelError
from squeeze.formats.onnx_weights import file_weights
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.quantize.gptq import Gptq
from squeeze.passes.quantize.rtn import Rtn
from squeeze.writers.decoder.export import Options, write
from squeeze.writers.proof_onnx import prove_onnx

MIXED = {
    "bits": 4,
    "group_size": 32,
    "symmetric": False,
    "embeddings": 8,
    "overrides": {"*.down_proj": {"bits": 8, "group_size": None}, "*.k_proj": {"bits": 3}, "*.o_proj": {"bits": 2}},
}


def proven(model: LanguageModel, folder: Path, way: str) -> None:
    write(model, folder, Options(encoding=way))  # type: ignore[arg-type]
    rows = list(prove_onnx(model, folder / "model.onnx"))
    assert all(row.equal for row in rows)
    assert {row.reader for row in rows} == {"squeeze", "onnxruntime"}
    inside = [name for name in model.grid if name.startswith(f"{model.skeleton.layers_name}.")]
    assert sum(row.weights for row in rows) >= 2 * sum(model.quantized(name).q.numel() for name in inside)


@pytest.mark.parametrize("way", ["nbits", "qdq"])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_both_readers_see_the_grid(tmp_path: Path, name: str, way: str) -> None:
    model = Rtn(**MIXED).run(LanguageModel(write_family(name, tmp_path / "family")), Context())  # type: ignore[arg-type]
    proven(model, tmp_path / "onnx", way)


@pytest.mark.parametrize("way", ["nbits", "qdq"])
def test_groups_in_act_order_come_back_in_theirs(tmp_path: Path, way: str) -> None:
    context = Context(calibration_data=TokenDataset("text", tokens(16, 24).numpy()))
    family = LanguageModel(write_family("llama3.1", tmp_path / "family"))
    proven(Gptq(bits=4, group_size=16, order="act_order").run(family, context), tmp_path / "onnx", way)


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="the system does not tell what is mapped")
def test_no_part_of_the_file_stays_mapped(tmp_path: Path) -> None:
    """Each tensor maps the whole file for itself, and pages count as many times."""
    model = Rtn(bits=4, group_size=16).run(LanguageModel(write_family("phi3", tmp_path / "family")), Context())
    write(model, tmp_path / "onnx", Options())
    for weight in file_weights(tmp_path / "onnx" / "model.onnx"):
        assert weight.integers.size
        assert "model.onnx.data" not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("way", ["nbits", "qdq"])
def test_large_weights_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setattr("squeeze.formats.onnx_weights.UNIT", 32)
    monkeypatch.setattr("squeeze.writers.proof_onnx.WEIGHTS", 700)
    family = LanguageModel(write_family("phi3", tmp_path / "family"))
    model = Rtn(bits=4, group_size=16, symmetric=False, embeddings=4).run(family, Context())
    proven(model, tmp_path / "onnx", way)


def test_one_other_bit_is_seen_by_both(tmp_path: Path) -> None:
    """The proof can fail."""
    family = LanguageModel(write_family("llama3.1", tmp_path / "family"))
    model = Rtn(bits=4, group_size=32).run(family, Context())
    write(model, tmp_path, Options())
    stored = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    (packed,) = [t for t in stored.graph.initializer if t.name == "model.layers.1.mlp.down_proj.weight.q"]
    offset = int(next(entry.value for entry in packed.external_data if entry.key == "offset"))
    data = bytearray((tmp_path / "model.onnx.data").read_bytes())
    data[offset + 5] ^= 1
    (tmp_path / "model.onnx.data").write_bytes(data)
    wrong = [row for row in prove_onnx(model, tmp_path / "model.onnx") if not row.equal]
    assert [(row.name, row.reader, row.differing) for row in wrong] == [
        ("model.layers.1.mlp.down_proj.weight", reader, 1) for reader in ("squeeze", "onnxruntime")
    ]


def test_a_weight_that_is_not_there_is_missed(tmp_path: Path) -> None:
    family = LanguageModel(write_family("llama3.1", tmp_path / "family"))
    model = Rtn(bits=4, group_size=32).run(family, Context())
    write(model, tmp_path, Options())
    stored = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    for node in stored.graph.node:
        if node.name.endswith("down_proj"):
            node.ClearField("metadata_props")
    (tmp_path / "model.onnx").write_bytes(stored.SerializeToString())
    with pytest.raises(
        ModelError, match=r"holds no 'model.layers.0.mlp.down_proj.weight', which the model has quantized"
    ):
        list(prove_onnx(model, tmp_path / "model.onnx"))
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"model.onnx: not a readable ONNX file"):
        list(prove_onnx(model, tmp_path / "model.onnx"))
