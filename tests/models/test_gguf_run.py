"""A plan may start from a .gguf file: checked from its header alone, read where it is, run like any other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from families import text_model, write_family
from tiny import faults, on_disk, squeeze
from tokenizer_world import TEXT, TOKENIZERS

from squeeze.api import compress, load
from squeeze.models.language.from_gguf import folder_of
from squeeze.models.language.language_model import LanguageModel
from squeeze.plan.check import check
from squeeze.sums import file_sum
from squeeze.writers.gguf import write_gguf

pytest.importorskip("gguf", reason="gguf is not installed: pip install 'squeeze[gguf]'")
PLAN = """\
model: {gguf: model.gguf}
data: {evaluate: {text: text.txt, length: 16}}
metrics: [perplexity, kl, size]
passes: [{pass: rtn, bits: 4, group_size: 32}]
"""


@pytest.fixture
def world(tmp_path: Path) -> Path:
    family = write_family("llama", tmp_path / "family", build=text_model("Llama", vocab_size=448))
    TOKENIZERS["gpt-2"]().save(str(family / "tokenizer.json"))
    write_gguf(LanguageModel(family), tmp_path / "model.gguf")
    (tmp_path / "text.txt").write_text(TEXT * 4)
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path


def test_a_run_starts_from_the_file_and_a_second_one_makes_nothing(world: Path) -> None:
    plan = load(world / "plan.yaml")
    run = compress(plan, store=world / "store")
    original, rounded = run.ledger.rows
    assert rounded.scores["size_bytes"].value < original.scores["size_bytes"].value
    assert plan.model is not None
    assert plan.model.origin(world) == {"gguf_sha256": file_sum(world / "model.gguf")}
    before = sorted((world / "store/entries").iterdir())
    again = compress(load(world / "plan.yaml"), store=world / "store")
    assert again.ledger.to_json(timings=False) == run.ledger.to_json(timings=False)
    assert sorted((world / "store/entries").iterdir()) == before


BAD = {
    "model: {gguf: gone.gguf}": r"^1: .*gone\.gguf: no such file; a \.gguf file would do",
    "model: {gguf: model.gguf, dtype: int8}": r"^1: model: dtype is 'int8'; float32, float16, bfloat16",
    "model: {gguf: model.gguf, weights: x}": r"^1: model: weights does not go with gguf; it serves module",
    "model: {gguf: text.txt}": r"^1: .*text\.txt: does not begin with GGUF; a \.gguf file does",
    "model: {gguf: 3}": r"^1: model: gguf is 3; a path or name would do",
    "memory: 300MB\nmodel: {gguf: model.gguf}": r"^1: memory: 300 MB is less than the \d+ MB that",
    "model: {hf: family, revision: main, dtype: float32}": r"model: dtype does not go with hf; it serves gguf",
    "model: {hf: nobody/nothing}": r"^1: nobody/nothing: no folder here, the hub cannot be asked \(Offline",
}


@pytest.mark.parametrize(("model", "line"), list(BAD.items()), ids=list(BAD))
def test_a_model_that_cannot_be_read_is_a_fault_of_its_line(world: Path, model: str, line: str) -> None:
    (world / "plan.yaml").write_text(PLAN.replace("model: {gguf: model.gguf}", model))
    messages = faults(world / "plan.yaml")
    assert any(re.search(line, fault) for fault in messages), messages


def test_inspect_reads_the_header_alone(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert squeeze("inspect", world / "model.gguf", "--json") == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    assert sum(layer["parameters"] for layer in layers) == LanguageModel(world / "family").parameters()


def test_the_real_tokenizer_splits_real_text_as_llama_cpp_does(smollm2: Path, real: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama.cpp is not installed: pip install 'squeeze[llama-cpp]'")
    from llama_cpp import Llama
    from tokenizers import Tokenizer

    own = Tokenizer.from_file(str(folder_of(smollm2, outline=True) / "tokenizer.json"))
    llama = Llama(str(smollm2), vocab_only=True, verbose=False)
    for text in ((real / "data/text/valid.txt").read_text()[:200_000], f"<|im_start|>user\n{TEXT}<|im_end|>"):
        assert own.encode(text).ids == llama.tokenize(text.encode(), add_bos=False, special=True)
        assert own.decode(own.encode(text).ids, skip_special_tokens=False) == text
    llama.close()


@pytest.mark.slow
def test_the_real_model_is_what_transformers_reads(smollm2: Path) -> None:
    from transformers import AutoModelForCausalLM

    stock = AutoModelForCausalLM.from_pretrained(smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32).eval()
    own = LanguageModel(folder_of(smollm2))
    assert all(torch.equal(own.tensor(name), stock.state_dict()[name]) for name in own.skeleton.names())
    tokens = torch.randint(0, own.vocabulary, (1, 64), generator=torch.Generator().manual_seed(0))
    logits = torch.cat([part for _, part in own.logits(tokens)])
    with torch.no_grad():
        assert (logits - stock(tokens).logits).abs().max() < 1e-4 * logits.abs().max()


def test_tables_that_rows_have_in_common_are_foretold_once(world: Path) -> None:
    family = write_family("llama", world / "wide", build=text_model("Llama", vocab_size=4_000))
    TOKENIZERS["gpt-2"]().save(str(family / "tokenizer.json"))
    write_gguf(LanguageModel(family), world / "model.gguf")
    rows = [f"{{name: rtn-{bits}, passes: [{{pass: rtn, bits: {bits}, group_size: 32}}]}}" for bits in (2, 3, 4, 8)]
    text = PLAN.replace("length: 16", "length: 16, samples: 2").split("passes:")[0] + f"targets: [{', '.join(rows)}]\n"
    (world / "plan.yaml").write_text(text)
    plan = load(world / "plan.yaml")
    cost = check(plan).cost
    compress(plan, store=world / "store")
    assert cost is not None
    assert cost.store_bytes == pytest.approx(on_disk(world / "store" / "entries"), rel=0.1)
