"""A .gguf file is read as the folder that it was made from, bit for bit; a broken one ends in one line."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import text_model, tokens, write_family
from packed_world import AS_THEY_ARE, REFUSED, VARIANTS, quantized
from tokenizer_world import TEXT, TOKENIZERS
from tokenizers import Tokenizer

from squeeze.errors import ModelError
from squeeze.models import gguf_pieces
from squeeze.models.base import Batch
from squeeze.models.language.from_gguf import folder_of
from squeeze.models.language.from_gguf.convert import convert
from squeeze.models.language.language_model import LanguageModel
from squeeze.writers.gguf import write_gguf

gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install 'squeeze[gguf]'")
FAMILIES = [*AS_THEY_ARE, *(name for name in VARIANTS if name not in REFUSED)]
BY_TRANSFORMERS = ["llama3.1", "phi3", "qwen2", "qwen3-128", "gemma2-256", "gemma3"]  # which it reads wholly


def converted(file: Path, **options: Any) -> LanguageModel:
    folder = file.with_suffix("")
    folder.mkdir()
    convert(file, folder, **options)
    return LanguageModel(folder)


def written(name: str, tmp_path: Path) -> tuple[LanguageModel, Path]:
    """A model of a family in 8 bits, and its file."""
    model, file = quantized(name, tmp_path), tmp_path / "back.gguf"
    write_gguf(model, file)
    return model, file


@pytest.mark.parametrize("name", FAMILIES)
def test_what_was_written_is_read_back(tmp_path: Path, name: str) -> None:
    """Matrices bit for bit from the grid; norms and factors as float32; so the same logits."""
    model, file = written(name, tmp_path)
    back = converted(file)
    for weight in model.grid:
        assert torch.equal(back.tensor(weight), model.tensor(weight).float()), weight
    batch = Batch({"input_ids": tokens(2)})
    assert torch.allclose(back.predict(batch), model.predict(batch), atol=2e-3)


@pytest.mark.parametrize("name", BY_TRANSFORMERS)
def test_weights_are_those_of_transformers_own_reader(tmp_path: Path, name: str) -> None:
    from transformers import AutoModelForCausalLM

    _, file = written(name, tmp_path)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32).state_dict()
    back = converted(file)
    names = back.skeleton.names()
    assert set(names) <= set(stock)
    assert all(torch.equal(back.tensor(name), stock[name]) for name in names)


TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]


SHAPES: dict[str, Any] = {
    "token_embd": (4, 256),
    "output_norm": (256,),
    "blk.0.attn_norm": (256,),
    "blk.0.ffn_norm": (256,),
    "blk.0.attn_q": (256, 256),
    "blk.0.attn_k": (128, 256),
    "blk.0.attn_v": (128, 256),
    "blk.0.attn_output": (256, 256),
}


def write_file(path: Path, kind: str = "F32", change: Callable[[Any], object] | None = None, **tensors: Any) -> Path:
    """A Llama of one block and 256 channels whose feed-forward weights are of that type, random bytes."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(256)
    writer.add_feed_forward_length(256)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(["a", "b", "ab", "<end>"])
    writer.add_token_types([1, 1, 1, 3])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(3)
    if change is not None:
        change(writer)
    random = np.random.default_rng(0)
    for name, shape in (SHAPES | tensors).items():
        if shape is not None:
            writer.add_tensor(f"{name}.weight", random.standard_normal(shape).astype(np.float32))
    number = gguf.GGMLQuantizationType[kind]
    for name in ("ffn_gate", "ffn_up", "ffn_down"):
        raw = random.integers(0, 60, gguf.quant_shape_to_byte_shape((256, 256), number), np.uint8)  # finite as float16
        writer.add_tensor(f"blk.0.{name}.weight", raw, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_is_dequantized_as_the_package_does(tmp_path: Path, kind: str) -> None:
    file = write_file(tmp_path / "one.gguf", kind)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}["blk.0.ffn_up.weight"]
    expected = np.array(gguf.quants.dequantize(stored.data, stored.tensor_type)).reshape(256, 256)
    assert torch.equal(converted(file).tensor("model.layers.0.mlp.up_proj.weight"), torch.from_numpy(expected))


@pytest.mark.parametrize("name", ["llama3.1", "mixtral"])
def test_few_rows_at_a_time_give_the_same_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    _, file = written(name, tmp_path)
    back = converted(file)
    whole = {name: back.tensor(name) for name in back.skeleton.names()}
    monkeypatch.setattr(gguf_pieces, "PART_BYTES", 7 * 4 * 64)
    for weight, value in whole.items():
        assert torch.equal(back.tensor(weight), value), weight
        assert torch.equal(torch.cat([part.reshape(-1) for part in back.parts(weight)]), value.reshape(-1)), weight


def test_blocks_take_no_room_beside_the_file_and_an_outline_none_at_all(tmp_path: Path) -> None:
    file = write_file(tmp_path / "one.gguf")
    folder = folder_of(file, outline=True)
    assert folder_of(file, outline=True) == folder
    outline, whole = LanguageModel(folder), converted(file)
    assert outline.nbytes() == 4 * whole.parameters() == pytest.approx(whole.nbytes(), rel=1e-3)
    for model, most in ((outline, 8_000), (whole, 8_000 + 4 * 5 * 256)):  # four tokens and a norm lie outside
        assert sum(path.stat().st_size for path in model.folder.iterdir()) < most
        assert torch.equal(model.tensor("model.embed_tokens.weight"), outline.tensor("model.embed_tokens.weight"))


def test_a_saved_model_links_the_file_and_outlives_its_name(tmp_path: Path) -> None:
    file = write_file(tmp_path / "one.gguf", "Q4_1")
    before, saved = converted(file), tmp_path / "saved"
    saved.mkdir()
    before.save(saved)
    assert (saved / "weights.gguf").samefile(file)
    name = "model.layers.0.mlp.up_proj.weight"
    value = before.tensor(name)
    file.unlink()
    assert torch.equal(LanguageModel(saved).tensor(name), value)


def test_an_index_that_is_damaged_and_a_file_that_shrank_end_in_one_line(tmp_path: Path) -> None:
    model = converted(write_file(tmp_path / "one.gguf"))
    (tmp_path / "one.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"one\.gguf: 'blk\.0\.ffn_up\.weight' cannot be read any more"):
        model.tensor("model.layers.0.mlp.up_proj.weight")
    (model.folder / "gguf.index").write_text('{"file": "one.gguf"}')
    with pytest.raises(ModelError, match=r"gguf\.index: no index of weights in a \.gguf file"):
        LanguageModel(model.folder)


def test_weights_may_be_read_narrower(tmp_path: Path) -> None:
    file = write_file(tmp_path / "one.gguf", "Q8_0")
    wide, narrow = converted(file), tmp_path / "narrow"
    narrow.mkdir()
    convert(file, narrow, dtype="bfloat16")
    name = "model.layers.0.self_attn.k_proj.weight"
    assert torch.equal(LanguageModel(narrow).tensor(name), wide.tensor(name).bfloat16())


@pytest.mark.parametrize("name", list(TOKENIZERS))
def test_the_tokenizer_splits_a_text_as_the_one_it_was_made_from(tmp_path: Path, name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    family = write_family("llama", tmp_path / "family", build=text_model("Llama", vocab_size=448))
    tokenizer.save(str(family / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": "{{ messages[0].content }}!"}
    (family / "tokenizer_config.json").write_text(json.dumps(settings))
    write_gguf(LanguageModel(family), tmp_path / "model.gguf")
    folder = folder_of(tmp_path / "model.gguf", outline=True)
    back = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert back.encode(TEXT).ids == tokenizer.encode(TEXT).ids
    assert back.decode(back.encode(TEXT).ids) == TEXT
    read = json.loads((folder / "tokenizer_config.json").read_text())
    assert {key: read[key] for key in settings} == settings


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": (
        {"change": lambda w: w.add_string("general.architecture", "lama")},
        "'lama' is not read from GGUF",
    ),
    "no blocks": ({"change": lambda w: w.add_uint32("llama.block_count", 300)}, r"num_hidden_layers is 300; the check"),
    "text for a number": ({"change": lambda w: w.add_string("llama.block_count", "1")}, "a whole number would do"),
    "odd heads": (
        {"change": lambda w: w.add_uint32("llama.attention.head_count", 7)},
        "is not a multiple of the number of att",
    ),
    "no heads": ({"change": lambda w: w.add_uint32("llama.attention.head_count", 0)}, "is 0; at least 1 would do"),
    "tokens": ({"token_embd": (3, 256)}, r"4 tokens in the metadata do not fit an embedding of 3 rows"),
    "merges": ({"change": lambda w: w.add_token_merges(["a c"])}, "the merge 'a c' names what is no token"),
    "twice": ({"change": lambda w: w.add_token_list(["a", "b", "ab", "a"])}, "token 3 is 'a', as token 0 is"),
    "types": ({"change": lambda w: w.add_token_types([1, 1])}, "4 tokens and 2 token types"),
    "end": ({"change": lambda w: w.add_eos_token_id(9)}, r"eos_token_id 9 is none of the 4 tokens"),
    "pattern": ({"change": lambda w: w.add_tokenizer_pre("qwen3")}, "'qwen3' is not known; did you mean 'qwen2'"),
    "tokenizer": ({"change": lambda w: w.add_tokenizer_model("bert")}, "'bert' is not read from GGUF; gpt2 and llama"),
    "parts": ({"change": lambda w: w.add_uint16("split.count", 3)}, "one of 3 parts; llama-gguf-split --merge"),
    "missing": ({"blk.0.attn_v": None}, r"holds no tensor 'blk\.0\.attn_v\.weight', which a llama needs"),
    "too much": ({"blk.0.attn_sinks": (4,)}, r"'blk\.0\.attn_sinks\.weight' has no place in a llama"),
    "shape": ({"blk.0.attn_v": (64, 256)}, r"attn_v\.weight' has the shape \[64, 256\], \[128, 256\] by the metadata"),
    "rope": ({"rope_freqs": (32,)}, "follows no rule of Llama 3.1"),
    "type": ({"kind": "Q8_1"}, r"tensor 'blk\.0\.ffn_gate\.weight': .*Q8_1"),
}


@pytest.mark.parametrize(("options", "line"), list(BROKEN.values()), ids=list(BROKEN))
def test_a_file_that_does_not_fit_itself_ends_in_one_line(tmp_path: Path, options: dict[str, Any], line: str) -> None:
    file = write_file(tmp_path / "bad.gguf", **options)
    with pytest.raises(ModelError, match=line) as caught:
        converted(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bad" / "gguf.index").exists()


def hostile(file: Path) -> dict[str, tuple[bytes, str]]:
    """Bytes that no writer writes."""
    whole = file.read_bytes()
    key = whole.index(b"llama.block_count")
    name = whole.index(b"blk.0.attn_q.weight")
    huge, kind = struct.pack("<Q", 2**60), name + 19 + 4 + 16
    array = whole.index(b"tokenizer.ggml.tokens") + 21 + 4 + 4
    return {
        "cut short": (whole[:-1000], r"is cut short: [\d,]+ bytes are needed for 'blk\.0\.ffn_down\.weight'"),
        "cut in its header": (whole[:200], "11 entries in tensors are more than the file has room for"),
        "nothing": (b"", "does not begin with GGUF"),
        "another file": (b"PK\x03\x04" + whole[4:], "does not begin with GGUF"),
        "an old version": (whole[:4] + struct.pack("<I", 1) + whole[8:], "is GGUF version 1; versions 2 and 3"),
        "big-endian": (whole[:4] + struct.pack(">I", 3) + whole[8:], "of a big-endian machine"),
        "many tensors": (whole[:8] + huge + whole[16:], "1,152,921,504,606,846,976 entries in tensors are more than"),
        "much metadata": (whole[:16] + huge + whole[24:], "entries in metadata are more than the file has room for"),
        "a long name": (
            whole[: key - 8] + huge + whole[key:],
            "a name in the metadata has 1,152,921,504,606,846,976 bytes",
        ),
        "a long list": (whole[:array] + huge + whole[array + 8 :], "entries in 'tokenizer.ggml.tokens' are more than"),
        "unknown type": (
            whole[:kind] + struct.pack("<I", 99) + whole[kind + 4 :],
            "'blk.0.attn_q.weight' has the type 99",
        ),
        "far away": (whole[: kind + 4] + huge + whole[kind + 12 :], "is cut short"),
        "no rows": (whole[: kind - 16] + bytes(8) + whole[kind - 8 :], r"has the shape \[256, 0\]"),
        "no letters": (whole[:key] + b"\xff" + whole[key + 1 :], "a name in the metadata is no UTF-8"),
        "no such value": (
            whole[: key + 17] + struct.pack("<I", 77) + whole[key + 21 :],
            "is of a type 77 that GGUF has not",
        ),
    }


HOSTILE = ["cut short", "cut in its header", "nothing", "another file", "an old version", "big-endian", "many tensors"]
HOSTILE += ["much metadata", "a long name", "a long list", "unknown type", "far away", "no rows", "no letters"]


@pytest.mark.parametrize("name", [*HOSTILE, "no such value"])
def test_hostile_bytes_end_in_one_line(tmp_path: Path, name: str) -> None:
    content, line = hostile(write_file(tmp_path / "good.gguf"))[name]
    (tmp_path / "bad.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=line) as caught:
        converted(tmp_path / "bad.gguf")
    assert "\n" not in str(caught.value)


def test_no_number_that_is_not_finite_becomes_a_weight(tmp_path: Path) -> None:
    file = write_file(tmp_path / "one.gguf", "F32")
    content = bytearray(file.read_bytes())
    place = next(t.data_offset for t in gguf.GGUFReader(file).tensors if t.name == "blk.0.attn_q.weight")
    content[place : place + 4] = struct.pack("<f", float("nan"))
    file.write_bytes(content)
    with pytest.raises(
        ModelError, match=r"'blk\.0\.attn_q\.weight' holds numbers that are not finite as torch\.float32"
    ):
        converted(file).tensor("model.layers.0.self_attn.q_proj.weight")
