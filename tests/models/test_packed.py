"""Checkpoints that others' readers load are written from the grid, and read back into it without requantizing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import FAMILIES, write_family
from language_world import in_shards, write_folder
from packed_world import write_letters
from safetensors.torch import load_file, save_file

from squeeze.algorithms.affine import QuantizedTensor, quantize_symmetric
from squeeze.errors import ModelError, ShapeError
from squeeze.models.base import Batch
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.quantize.rtn import Rtn
from squeeze.writers.compressed_tensors import CompressedTensorsWriter
from squeeze.writers.decoder.compare import Exact
from squeeze.writers.decoder.export import Options, export_decoder, write
from squeeze.writers.genai import GenaiWriter
from squeeze.writers.gguf import write_gguf
from squeeze.writers.gptq import GptqWriter
from squeeze.writers.proof_onnx import prove_onnx

Writer = Callable[[LanguageModel, Path], Path]
WRITERS: dict[str, Writer] = {
    "gptq-v1": GptqWriter(1).write,
    "gptq-v2": GptqWriter(2).write,
    "compressed-tensors": CompressedTensorsWriter().write,
}
DIFFERENT = {"*.down_proj": {"bits": 8, "group_size": None}, "*.k_proj": {"bits": 3}}


def quantized(folder: Path, **options: object) -> LanguageModel:
    pass_ = Rtn(**{"bits": 4, "group_size": 32} | options)  # type: ignore[arg-type]
    return in_shards(pass_.run(LanguageModel(folder), Context()))


def require_same(one: LanguageModel, other: LanguageModel) -> None:
    assert set(one.grid) == set(other.grid)
    for name in one.grid:
        ours, theirs = one.quantized(name), other.quantized(name)
        assert all(torch.equal(getattr(ours, part), getattr(theirs, part)) for part in ("q", "scale", "zero_point"))
        assert (ours.bits, ours.group_size, ours.symmetric) == (theirs.bits, theirs.group_size, theirs.symmetric)
    for name in set(one.skeleton.names()) - set(one.grid):
        assert torch.equal(one.tensor(name).half(), other.tensor(name))


@pytest.mark.parametrize("writer", list(WRITERS))
@pytest.mark.parametrize("name", list(FAMILIES))
def test_every_family_comes_back_from_every_checkpoint(tmp_path: Path, name: str, writer: str) -> None:
    """Experts in 3-D tensors go to disk one by one, vision towers stay as they are."""
    model = quantized(write_family(name, tmp_path / "family"))
    WRITERS[writer](model, tmp_path / "packed")
    require_same(model, LanguageModel(tmp_path / "packed"))


@pytest.mark.parametrize("writer", ["gptq-v2", "compressed-tensors"])
def test_options_by_module_come_back(tmp_path: Path, writer: str) -> None:
    model = quantized(
        write_folder(tmp_path / "family"), symmetric=False, overrides=DIFFERENT, exclude=("*.o_proj", "*.0.mlp.up_proj")
    )
    WRITERS[writer](model, tmp_path / "packed")
    require_same(model, LanguageModel(tmp_path / "packed"))


def test_a_packed_folder_becomes_a_plain_one_or_another_packed_one(tmp_path: Path) -> None:
    """What is said of packed weights stays behind, in whichever file it stood."""
    model = quantized(write_folder(tmp_path / "family"))
    GptqWriter(1).write(model, tmp_path / "gptq")
    packed = LanguageModel(tmp_path / "gptq")
    CompressedTensorsWriter().write(packed, tmp_path / "other")
    require_same(packed, LanguageModel(tmp_path / "other"))
    packed.save_dense(tmp_path / "dense")
    dense = LanguageModel(tmp_path / "dense")
    assert not dense.grid
    name = "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(dense.tensor(name), packed.quantized(name).dequantize().half())
    (tmp_path / "kept").mkdir()
    packed.save(tmp_path / "kept")
    require_same(packed, LanguageModel(tmp_path / "kept"))


def test_an_old_checkpoint_says_all_in_its_own_file(tmp_path: Path) -> None:
    """As auto-gptq wrote it: one shard of its own name, no format, nothing in config.json; another shard beside."""
    model = quantized(write_folder(tmp_path / "family"))
    folder = tmp_path / "gptq"
    GptqWriter(1).write(model, folder)
    shards = [load_file(file) for file in sorted(folder.glob("*.safetensors"))]
    for file in [*folder.glob("*.safetensors"), *folder.glob("*.index.json")]:
        file.unlink()
    save_file(
        {name: value for shard in shards for name, value in shard.items()}, folder / "gptq_model-4bit.safetensors"
    )
    save_file({"model.norm.weight": torch.zeros(64)}, folder / "other.safetensors")
    values = json.loads((folder / "config.json").read_text())
    old = {"bits": 4, "group_size": 32, "desc_act": False, "sym": True, "is_marlin_format": False, "damp_percent": 0.01}
    (folder / "quantize_config.json").write_text(json.dumps(old | {"model_file_base_name": "gptq_model-4bit"}))
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if k != "quantization_config"}))
    require_same(model, LanguageModel(folder))


NAME = "model.layers.1.self_attn.q_proj"
WIDTHS = {"qweight": 2, "scales": 2, "qzeros": 16}
BROKEN: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "wrong g_idx": (
        lambda w: w[f"{NAME}.g_idx"].add_(1),
        rf"{NAME}: g_idx names groups 1 to 2, and there are groups 0",
    ),
    "short g_idx": (lambda w: w.update({f"{NAME}.g_idx": w[f"{NAME}.g_idx"][:60]}), rf"{NAME}: g_idx is \[60\]"),
    "short qweight": (
        lambda w: w.update({f"{NAME}.qweight": w[f"{NAME}.qweight"][:4]}),
        rf"{NAME}: qzeros is \[2, 8\], and \[1, 8\] belongs to qweight \[4, 64\]",
    ),
    "narrow": (
        lambda w: w.update({f"{NAME}.{p}": w[f"{NAME}.{p}"][:, : 64 // n] for p, n in WIDTHS.items()}),
        rf"'{NAME}\.weight' has the wrong shape: \[32, 64\] on disk, \[64, 64\] by config\.json",
    ),
    "no scales": (lambda w: w.pop(f"{NAME}.scales"), f"{NAME}: no scales of two dimensions is stored"),
    "bias": (
        lambda w: w.update({f"{NAME}.bias": torch.ones(64)}),
        r"bias' is not zero, and the model has no such bias",
    ),
}


@pytest.mark.parametrize(("change", "line"), list(BROKEN.values()), ids=list(BROKEN))
def test_a_broken_gptq_checkpoint_is_refused_in_one_line(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], line: str
) -> None:
    GptqWriter(1).write(quantized(write_folder(tmp_path / "family")), tmp_path / "gptq")
    (file,) = (tmp_path / "gptq").glob("*-00003-*.safetensors")
    weights = load_file(file)
    change(weights)
    save_file({name: value.contiguous() for name, value in weights.items()}, file)
    with pytest.raises(ModelError, match=line) as caught:
        LanguageModel(tmp_path / "gptq")
    assert "\n" not in str(caught.value)


SAID = {
    "bits": ({"bits": 5}, "bits 5 cannot be read; 2, 3, 4 and 8 can"),
    "wide": ({"bits": 8}, "down_proj: group_size 32 does not divide 48 input channels"),
    "group": ({"group_size": 40}, "down_proj: group_size 40 does not divide 96 input channels"),
    "marlin": ({"is_marlin_format": True}, "checkpoint_format 'marlin' cannot be read"),
    "awq": ({"quant_method": "awq"}, "is quantized already, by awq, which is not read"),
}


@pytest.mark.parametrize(("change", "line"), list(SAID.values()), ids=list(SAID))
def test_a_config_that_does_not_fit_is_refused_in_one_line(
    tmp_path: Path, change: dict[str, object], line: str
) -> None:
    GptqWriter(1).write(quantized(write_folder(tmp_path / "family")), tmp_path / "gptq")
    file = tmp_path / "gptq" / "config.json"
    values = json.loads(file.read_text())
    values["quantization_config"] |= change
    file.write_text(json.dumps(values))
    with pytest.raises(ModelError, match=line) as caught:
        LanguageModel(tmp_path / "gptq")
    assert "\n" not in str(caught.value)


def test_what_a_checkpoint_cannot_hold_is_said_by_weight(tmp_path: Path) -> None:
    family = write_folder(tmp_path / "family")
    with pytest.raises(ModelError, match="no weight is quantized; a pass such as rtn or gptq would do it"):
        GptqWriter().write(LanguageModel(family), tmp_path / "no")
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.down_proj: gptqmodel opens an asymmetric grid in version 2"):
        GptqWriter(1).write(quantized(family, symmetric=False), tmp_path / "no")
    with pytest.raises(ModelError, match="know no group_size 8; 16, 32"):
        GptqWriter().write(quantized(family, group_size=8), tmp_path / "no")


def test_weights_too_large_for_float16_are_refused(tmp_path: Path) -> None:
    family = write_folder(tmp_path / "family")
    weights = load_file(family / "model.safetensors")
    weights["model.norm.weight"].fill_(1e5)
    save_file(weights, family / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.norm\.weight: 1e\+05 is too large for float16"):
        CompressedTensorsWriter().write(quantized(family), tmp_path / "no")


def write_act_orders(folder: Path) -> Path:
    """A GPTQ folder by somebody else: each linear of a block in an order of input channels of its own."""
    model = quantized(write_folder(folder / "family"))
    GptqWriter(2).write(model, folder / "gptq")
    generator = torch.Generator().manual_seed(0)
    for file in sorted((folder / "gptq").glob("*.safetensors")):
        weights = load_file(file)
        for name in [name for name in weights if name.endswith(".g_idx")]:
            weights[name] = weights[name][torch.randperm(len(weights[name]), generator=generator)]
        save_file(weights, file, {"format": "pt"})
    config = folder / "gptq" / "config.json"
    values = json.loads(config.read_text())
    values["quantization_config"]["desc_act"] = True
    config.write_text(json.dumps(values))
    return folder / "gptq"


@pytest.mark.parametrize("way", ["nbits", "qdq"])
def test_q_k_v_with_orders_of_their_own_are_exported_as_they_are(tmp_path: Path, way: str) -> None:
    """One tensor has one order of channels: three that differ must not be merged, nor proven by merging them again."""
    model = LanguageModel(write_act_orders(tmp_path))
    orders = [model.quantized(f"model.layers.0.self_attn.{name}_proj.weight").g_idx for name in "qkv"]
    assert not any(torch.equal(orders[0], other) for other in orders[1:])
    context = Context()
    decoder = export_decoder(model, tmp_path / "onnx", Options(encoding=way, accuracy_level=0), context)
    assert context.measured["export_error"]["prefill"] < 1e-5
    batch = Batch({"input_ids": torch.randint(0, 128, (3, 16), generator=torch.Generator().manual_seed(1))})
    expected = Exact(model.folder).predict(batch)
    most = 1e-5 if way == "nbits" else 0.05  # ONNX Runtime runs the pairs of QDQ with activations in int8
    assert float((decoder.predict(batch) - expected).abs().max() / expected.abs().max()) < most
    genai = GenaiWriter().write(decoder, tmp_path / "genai").parent
    assert (genai / "model.onnx").read_bytes() == (decoder.folder / "model.onnx").read_bytes()


def test_a_merged_order_is_seen_by_the_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof stacks nothing: a writer that gives q, k and v the order of q is found out."""
    model = LanguageModel(write_act_orders(tmp_path))
    monkeypatch.setattr(LanguageModel, "group_index", lambda self, name: None)
    monkeypatch.setattr(QuantizedTensor, "_difference", lambda self, other: None)
    write(model, tmp_path / "onnx", Options())
    wrong = {row.name for row in prove_onnx(model, tmp_path / "onnx" / "model.onnx") if not row.equal}
    assert any("q_proj" in name and "k_proj" in name for name in wrong)


def test_orders_that_a_format_cannot_hold_are_refused(tmp_path: Path) -> None:
    model = LanguageModel(write_act_orders(tmp_path))
    write_letters(model.folder, 128)
    with pytest.raises(ModelError, match="GGUF knows no groups in act_order"):
        write_gguf(model, tmp_path / "model.gguf")
    GptqWriter(2).write(model, tmp_path / "again")
    require_same(model, LanguageModel(tmp_path / "again"))


def test_grids_that_differ_are_not_stacked() -> None:
    """Every difference has its line: a stack would silently take the first one's."""
    plain = quantize_symmetric(torch.randn(4, 32), 4, 16)
    ordered = replace(plain, g_idx=torch.arange(32).flip(0) // 16)
    others = {
        "bits 4 and 8": quantize_symmetric(torch.randn(4, 32), 8, 16),
        "input channels 32 and 64": quantize_symmetric(torch.randn(4, 64), 4, 16),
        "group_size 16 and 32": quantize_symmetric(torch.randn(4, 32), 4, 32),
        "different input channels": ordered,
    }
    for line, other in others.items():
        with pytest.raises(ShapeError, match=f"cannot be stacked: .*{line}"):
            QuantizedTensor.stack([plain, other])
    both = QuantizedTensor.stack([ordered, ordered])
    assert torch.equal(both.dequantize(), torch.cat([ordered.dequantize()] * 2))
    assert torch.equal(both.rows(slice(4, 8)).dequantize(), ordered.dequantize())
