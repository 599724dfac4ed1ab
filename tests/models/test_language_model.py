"""A language model walked block by block says the very same as one in memory, and is stored as what it became."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree

import pytest
import torch
from language_world import write_folder
from torch import Tensor

from squeeze.algorithms.rtn import round_to_nearest
from squeeze.errors import ModelError, SqueezeError
from squeeze.models.base import Batch
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.rewriter import Rewriter
from squeeze.passes.base import Context
from squeeze.passes.quantize.rtn import Rtn


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama in a Hugging Face folder."""
    return write_folder(tmp_path_factory.mktemp("tiny"), num_hidden_layers=3)


def tokens(sequences: int = 5, length: int = 16) -> Tensor:
    return torch.randint(0, 128, (sequences, length), generator=torch.Generator().manual_seed(1))


def stock_logits(folder: Path) -> Tensor:
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        logits: Tensor = AutoModelForCausalLM.from_pretrained(folder).eval()(input_ids=tokens()).logits
    return logits


def test_the_walk_gives_the_logits_of_stock_transformers(tiny: Path) -> None:
    assert torch.allclose(LanguageModel(tiny).predict(Batch({"input_ids": tokens()})), stock_logits(tiny), atol=1e-5)


def test_chunks_of_any_size_give_the_same_logits(tiny: Path) -> None:
    model = LanguageModel(tiny)
    one, many = (torch.cat([logits for _, logits in model.logits(tokens(), chunk)]) for chunk in (2, 5))
    assert torch.allclose(one, many, atol=1e-5)


def test_activations_may_lie_on_disk(tiny: Path, tmp_path: Path) -> None:
    model = LanguageModel(tiny)
    on_disk = torch.cat([logits for _, logits in model.logits(tokens(), 2, tmp_path / "spill")])
    assert torch.allclose(on_disk, model.predict(Batch({"input_ids": tokens()})), atol=1e-5)
    assert (tmp_path / "spill").stat().st_size == tokens().numel() * model.skeleton.token_bytes


def test_a_walk_begins_without_the_head(tiny: Path) -> None:
    """Of a model with 128,256 tokens it would be a gigabyte that is read for nothing."""
    model, rows = LanguageModel(tiny), []
    head = model.module.get_output_embeddings()
    head.register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].numel()))  # type: ignore[operator]
    model.walk(torch.zeros(2, 8, dtype=torch.int64))
    assert rows == [0]


def test_a_weight_is_read_some_rows_at_a_time(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("squeeze.models.pieces.PART_VALUES", 7 * 64)
    model = LanguageModel(tiny)
    for name, most in (("model.embed_tokens.weight", 7), ("model.norm.weight", 64)):
        parts = list(model.parts(name))
        assert max(map(len, parts)) <= most
        assert torch.equal(torch.cat(parts), model.tensor(name))


def test_what_is_not_finite_in_an_embedding_is_found_in_every_part(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file, save_file

    copytree(tiny, tmp_path / "model")
    (file,) = (tmp_path / "model").glob("*.safetensors")
    weights = load_file(file)
    weights["model.embed_tokens.weight"][-1, 3] = float("nan")
    save_file(weights, file, {"format": "pt"})
    monkeypatch.setattr("squeeze.models.pieces.PART_VALUES", 10 * 64)
    with pytest.raises(SqueezeError, match=r"model\.embed_tokens\.weight holds values that are not finite"):
        Rtn(group_size=16).run(LanguageModel(tmp_path / "model"), Context())


def test_no_block_stays_in_memory(tiny: Path) -> None:
    model = LanguageModel(tiny)
    model.predict(Batch({"input_ids": tokens()}))
    assert all(parameter.is_meta for parameter in model.skeleton.module.parameters())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_a_quantized_weight_is_stored_packed_and_comes_back_bit_for_bit(
    tiny: Path, tmp_path: Path, bits: int, symmetric: bool
) -> None:
    model = LanguageModel(tiny)
    name = "self_attn.q_proj.weight"
    grid = round_to_nearest(model.tensor(f"model.layers.1.{name}"), bits, 32, symmetric)
    rewriter = Rewriter(model, tmp_path)
    for index in range(model.blocks):
        rewriter.put_block(index, {name: grid} if index == 1 else {}, {})
    written = rewriter.finish()
    assert torch.equal(written.tensor(f"model.layers.1.{name}"), grid.dequantize())
    assert torch.equal(written.tensor(f"model.layers.0.{name}"), model.tensor(f"model.layers.0.{name}"))
    (layer,) = [layer for layer in written.layers() if layer.name == f"model.layers.1.{name}"]
    assert layer.nbytes == 64 * 64 * bits // 8 + 64 * 2 * (2 if symmetric else 3)


def test_files_of_what_stays_outside_the_blocks_take_no_room_again(tiny: Path, tmp_path: Path) -> None:
    """A table of tokens is half of a small model; each quantized copy of it links the file it lies in."""
    original = LanguageModel(tiny)
    original.save_dense(tmp_path / "shards")  # a file for each end
    (own,) = {piece.file for name, piece in LanguageModel(tmp_path / "shards").shards.pieces.items() if "embed" in name}
    model = LanguageModel(tmp_path / "shards")
    for step in ("one", "two"):  # the second time from links, and over what a killed try left
        (tmp_path / step).mkdir()
        (tmp_path / step / "outside-00000.safetensors").write_bytes(b"cut short")
        rewriter = Rewriter(model, tmp_path / step)
        for index in range(model.blocks):
            rewriter.put_block(index, {}, {})
        model = rewriter.finish()
    (linked,) = {piece.file for name, piece in model.shards.pieces.items() if "embed" in name}
    assert linked.samefile(own)
    assert all(torch.equal(model.tensor(name), original.tensor(name)) for name in model.skeleton.names())


def test_a_missing_shard_is_named(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((tiny / "config.json").read_text())
    with pytest.raises(ModelError, match=r"no \*\.safetensors here"):
        LanguageModel(tmp_path)


def test_a_shard_cut_short_is_named(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((tiny / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((tiny / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors: not a whole safetensors file"):
        LanguageModel(tmp_path)


def test_the_real_model_scores_as_its_readme_says(real: Path) -> None:
    """Loss 4.4210 over the whole text; here its first sequences, against stock transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = real / "models/prose6M"
    text = (real / "data/prose/evaluate.txt").read_text()[:6000]
    ids = torch.tensor(AutoTokenizer.from_pretrained(folder)(text)["input_ids"][:512]).reshape(2, 256)
    with torch.no_grad():
        stock = AutoModelForCausalLM.from_pretrained(folder).eval()(input_ids=ids).logits
    assert torch.allclose(LanguageModel(folder).predict(Batch({"input_ids": ids})), stock, atol=1e-4)
