"""A .gguf file holds the grid exactly, and llama.cpp, where it is installed, says what the model says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from families import text_model, tokens, write_family
from language_world import in_shards
from packed_world import AS_THEY_ARE, REFUSED, VARIANTS, quantized, write_letters
from tokenizer_world import TEXT, TOKENIZERS
from tokenizers import Tokenizer

from squeeze.errors import ModelError
from squeeze.models.base import Batch
from squeeze.models.facts import Facts
from squeeze.models.language.gguf_names import paired_rows
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.quantize.rtn import Rtn
from squeeze.runtimes.llama_cpp import GgufDecoder
from squeeze.writers.gguf import GgufWriter, write_gguf

gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install 'squeeze[gguf]'")
FAMILIES = [*AS_THEY_ARE, *(name for name in VARIANTS if name not in REFUSED)]
FACTS = Facts(1, 0.1)


def need_llama_cpp() -> None:
    pytest.importorskip("llama_cpp", reason="llama.cpp is not installed: pip install 'squeeze[llama-cpp]'")


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_gguf_package_reads_the_very_weights_of_every_family(tmp_path: Path, name: str, bits: int) -> None:
    model = quantized(name, tmp_path, bits)
    write_gguf(model, tmp_path / "model.gguf")
    rows = list(GgufWriter().prove(model, tmp_path / "model.gguf"))
    assert all(row.equal for row in rows)
    assert sum(row.weights for row in rows) == sum(model.quantized(weight).q.numel() for weight in model.grid)


@pytest.mark.parametrize("name", ["llama3.1", "mixtral"])
def test_weights_are_written_and_proven_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    model = quantized(name, tmp_path, 8)
    write_gguf(model, tmp_path / "whole.gguf")
    whole = list(GgufWriter().prove(model, tmp_path / "whole.gguf"))
    monkeypatch.setattr("squeeze.formats.gguf_blocks.WEIGHTS", 7 * 64)
    monkeypatch.setattr("squeeze.writers.gguf.WEIGHTS", 7 * 64)
    write_gguf(model, tmp_path / "parts.gguf")
    assert (tmp_path / "parts.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    assert list(GgufWriter().prove(model, tmp_path / "parts.gguf")) == whole


def test_surplus_rows_of_a_file_are_no_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though all rows before them are the model's, and these fill whole parts."""
    wide, narrow = (rounded(tmp_path / str(width), intermediate_size=width) for width in (256, 128))
    write_gguf(wide, tmp_path / "wide.gguf")
    monkeypatch.setattr("squeeze.writers.gguf.WEIGHTS", 64 * 64)
    first_rows = {name: wide.quantized(name).rows(slice(entry.shape[0])) for name, entry in narrow.grid.items()}
    monkeypatch.setattr(narrow, "quantized", first_rows.__getitem__)
    with pytest.raises(ModelError, match=r"blk\.0\.ffn_(gate|up)\.weight: gguf reads \[64, 64\] .*, and \[0, 64\]"):
        list(GgufWriter().prove(narrow, tmp_path / "wide.gguf"))


def rounded(folder: Path, **sizes: int) -> LanguageModel:
    family = write_family("llama", folder / "family", build=text_model("Llama", **sizes))
    write_letters(family)
    return in_shards(Rtn(bits=8, group_size=32).run(LanguageModel(family), Context()))


@pytest.mark.parametrize("name", FAMILIES)
def test_llama_cpp_says_what_the_model_says(tmp_path: Path, name: str) -> None:
    """Within what its rounding of activations to 8 bits does; a wrong order of heads or scale is off by 1 and more."""
    need_llama_cpp()
    model = quantized(name, tmp_path)
    write_gguf(model, tmp_path / "model.gguf")
    own = model.predict(Batch({"input_ids": tokens(2)})).log_softmax(-1)
    runtime = torch.cat([logits for _, logits in GgufDecoder(tmp_path, FACTS).logits(tokens(2))]).log_softmax(-1)
    assert (own - runtime).abs().mean() < 0.03
    assert own.std() > 0.1


@pytest.mark.parametrize("name", FAMILIES)
def test_llama_cpp_reads_a_text_in_pieces(tmp_path: Path, name: str) -> None:
    """So that the logits of a long text need not lie in memory together; rounding differs with what is read at once."""
    need_llama_cpp()
    write_gguf(quantized(name, tmp_path), tmp_path / "model.gguf")
    text, decoder = tokens(1)[0], GgufDecoder(tmp_path, FACTS)
    whole = torch.cat([logits for _, logits in decoder.logits(text[None])])[0]
    for _ in range(2):  # a text that was read before leaves nothing behind
        pieces = torch.cat([logits for _, logits in decoder.pieces(text, 5)])
        assert (pieces - whole).abs().mean() < 0.03


def test_a_weight_that_differs_is_counted(tmp_path: Path) -> None:
    """The proof can fail: one integer of one block is another one in the file."""
    model = quantized("llama3.1", tmp_path, 4)
    file = tmp_path / "model.gguf"
    write_gguf(model, file)
    content = bytearray(file.read_bytes())
    place = next(t.data_offset for t in gguf.GGUFReader(file).tensors if t.name == "blk.1.ffn_up.weight")
    content[place + 2] ^= 1
    file.write_bytes(content)
    wrong = [row for row in GgufWriter().prove(model, file) if not row.equal]
    assert [(row.name, row.differing) for row in wrong] == [("blk.1.ffn_up.weight", 1)]


def test_rotary_pairs_come_to_lie_side_by_side() -> None:
    """Two heads of four rows: halves (0, 1 | 2, 3) become pairs (0, 2), (1, 3)."""
    assert paired_rows(8, 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.parametrize(("name", "line"), list(REFUSED.items()), ids=list(REFUSED))
def test_what_llama_cpp_would_compute_otherwise_is_refused(tmp_path: Path, name: str, line: str) -> None:
    model = quantized(name, tmp_path)
    with pytest.raises(ModelError, match=line):
        write_gguf(model, tmp_path / "model.gguf")
    assert not list(tmp_path.glob("*.gguf*"))


def test_a_grid_that_gguf_cannot_hold_is_refused_by_weight(tmp_path: Path) -> None:
    family = write_family("llama3.1", tmp_path / "family")
    write_letters(family)
    model = Rtn(bits=4, group_size=16).run(LanguageModel(family), Context())
    with pytest.raises(ModelError, match=r"q_proj\.weight: group_size 16 is no multiple of GGUF's blocks of 32"):
        write_gguf(model, tmp_path / "model.gguf")


def test_a_window_that_llama_cpp_does_not_know_bounds_the_context(tmp_path: Path) -> None:
    need_llama_cpp()
    write_gguf(quantized("mistral-window", tmp_path), tmp_path / "model.gguf")
    with pytest.raises(ModelError, match=r"model\.gguf: 65 tokens are more than the 64 that the file is made for"):
        list(GgufDecoder(tmp_path, FACTS).logits(torch.ones(1, 65, dtype=torch.int64)))


def test_a_file_that_llama_cpp_cannot_load_is_named(tmp_path: Path) -> None:
    need_llama_cpp()
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelError, match=r"model\.gguf: llama\.cpp cannot load it"):
        list(GgufDecoder(tmp_path, FACTS).logits(torch.ones(1, 5, dtype=torch.int64)))


@pytest.mark.parametrize("name", list(TOKENIZERS))
def test_llama_cpp_splits_a_text_as_the_tokenizer_does(tmp_path: Path, name: str) -> None:
    need_llama_cpp()
    from llama_cpp import Llama

    tokenizer = TOKENIZERS[name]()
    family = write_family("llama", tmp_path, build=text_model("Llama", vocab_size=448))  # more rows than tokens
    tokenizer.save(str(family / "tokenizer.json"))
    (family / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    write_gguf(LanguageModel(family), tmp_path / "model.gguf")
    llama = Llama(str(tmp_path / "model.gguf"), vocab_only=True, verbose=False)
    expected = tokenizer.encode(TEXT)
    assert llama.tokenize(TEXT.encode(), add_bos=name == "sentencepiece") == expected.ids
    assert (llama.metadata["tokenizer.ggml.add_bos_token"] == "true") == (name == "sentencepiece")
    llama.close()


UNKNOWN = {
    "a WordLevel tokenizer; llama.cpp is given BPE ones only": {"model": {"type": "WordLevel", "vocab": {}}},
    "has no name for its pattern 'nosuch'": {
        "pre_tokenizer": {
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "nosuch"}},
                {"type": "ByteLevel", "use_regex": False},
            ]
        }
    },
    "has no name for its pre-tokenizer Whitespace": {"pre_tokenizer": {"type": "Whitespace"}},
    "its normalizer Lowercase has none in llama.cpp": {"normalizer": {"type": "Lowercase"}},
    "token 500 is none of the 128 that the model knows": {
        "added_tokens": [{"id": 500, "content": "x", "special": True}]
    },
    r"no tokenizer can be read here \(KeyError: 'model'\)": {"model": None},
}


@pytest.mark.parametrize(("line", "change"), list(UNKNOWN.items()), ids=list(UNKNOWN))
def test_a_tokenizer_without_a_counterpart_is_refused(tmp_path: Path, line: str, change: dict[str, object]) -> None:
    model = quantized("llama3.1", tmp_path)
    plain = {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "pre_tokenizer": {"type": "ByteLevel"}} | change
    (model.folder / "tokenizer.json").write_text(json.dumps({k: v for k, v in plain.items() if v is not None}))
    with pytest.raises(ModelError, match=line):
        write_gguf(model, tmp_path / "model.gguf")


def test_the_real_model_runs_in_llama_cpp(real: Path, tmp_path: Path) -> None:
    """Same tokens, same loss to a thousandth on real text: 4 bits exactly from the grid, the rest float16."""
    need_llama_cpp()
    model = in_shards(Rtn(bits=4, group_size=32).run(LanguageModel(real / "models/prose6M"), Context()))
    write_gguf(model, tmp_path / "model.gguf")
    assert all(row.equal for row in GgufWriter().prove(model, tmp_path / "model.gguf"))
    text = (real / "data/prose/evaluate.txt").read_text()[:8000]
    ids = Tokenizer.from_file(str(model.folder / "tokenizer.json")).encode(text).ids
    batch = torch.tensor(ids[:512]).reshape(2, 256)
    runtime = GgufDecoder(tmp_path, FACTS)
    both = [torch.cat([logits for _, logits in one.logits(batch)]).log_softmax(-1) for one in (model, runtime)]
    losses = [-values[:, :-1].gather(-1, batch[:, 1:, None]).mean() for values in both]
    assert abs(losses[0] - losses[1]) < 0.003
    assert (both[0] - both[1]).abs().mean() < 0.02
    written = list(runtime.generate(ids[:16], 8))
    whole = model.whole().generate(torch.tensor([ids[:16]]), max_new_tokens=8, do_sample=False)
    assert written == whole[0, 16:].tolist()
