"""Grids of 2 bits as Q2_0: ggml reads the very weights, llama.cpp runs the file, a plan may start from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import text_model, tokens, write_family
from packed_world import AS_THEY_ARE, write_letters
from tiny import faults

from squeeze.errors import ModelError
from squeeze.formats.gguf_header import read_header
from squeeze.models.base import Batch
from squeeze.models.facts import Facts
from squeeze.models.language.from_gguf import folder_of
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.quantize.rtn import Rtn
from squeeze.runtimes import ggml
from squeeze.runtimes.llama_cpp import GgufDecoder
from squeeze.targets.gguf import Gguf
from squeeze.writers.gguf import GgufWriter, write_gguf

pytest.importorskip("gguf", reason="gguf is not installed: pip install 'squeeze[gguf]'")
WEIGHT = "model.layers.0.mlp.up_proj.weight"


def need_two_bits() -> None:
    pytest.importorskip("llama_cpp", reason="llama.cpp is not installed: pip install 'squeeze[llama-cpp]'")
    if fault := ggml.two_bits_fault():
        pytest.skip(fault)


def rounded(folder: Path, family: str = "llama3.1") -> LanguageModel:
    made = write_family(family, folder / "family")
    write_letters(made)
    return Rtn(bits=2, group_size=64, exclude=("*down_proj*", "*lm_head*")).run(LanguageModel(made), Context())


def test_a_plan_starts_from_the_file_with_the_weights_of_the_grid(tmp_path: Path) -> None:
    model, file = rounded(tmp_path), tmp_path / "model.gguf"
    write_gguf(model, file, two_bits=True)
    kinds = {name: info.kind for name, info in read_header(file).tensors.items()}
    assert kinds["blk.0.ffn_up.weight"] == "Q2_0"
    back = LanguageModel(folder_of(file))
    for name in model.grid:
        assert torch.equal(back.tensor(name), model.quantized(name).dequantize()), name


@pytest.mark.parametrize("name", AS_THEY_ARE)
def test_ggml_reads_the_very_weights_of_every_family(tmp_path: Path, name: str) -> None:
    need_two_bits()
    model, file = rounded(tmp_path, name), tmp_path / "model.gguf"
    writer = GgufWriter(two_bits=True)
    write_gguf(model, file, two_bits=True)
    rows = list(writer.prove(model, file))
    assert all(row.equal and row.reader == "llama.cpp" for row in rows)
    assert sum(row.weights for row in rows) == sum(model.quantized(weight).q.numel() for weight in model.grid)
    info = next(info for info in read_header(file).tensors.values() if info.kind == "Q2_0")
    content = bytearray(file.read_bytes())
    content[info.offset + 2] ^= 1
    file.write_bytes(content)
    assert [row.differing for row in writer.prove(model, file) if not row.equal] == [1]


def test_llama_cpp_says_what_the_model_says(tmp_path: Path) -> None:
    need_two_bits()
    model = rounded(tmp_path)
    write_gguf(model, tmp_path / "model.gguf", two_bits=True)
    own = model.predict(Batch({"input_ids": tokens(2)})).log_softmax(-1)
    decoder = GgufDecoder(tmp_path, Facts(1, 0.1))
    runtime = torch.cat([logits for _, logits in decoder.logits(tokens(2))]).log_softmax(-1)
    assert (own - runtime).abs().mean() < 0.03


def test_the_file_is_smaller_only_where_it_is_asked_for(tmp_path: Path) -> None:
    """Each quantized weight takes half: 18 bytes for 64 weights and not for 32."""
    model = rounded(tmp_path)
    sizes = []
    for q2_0 in (False, True):
        folder = tmp_path / str(q2_0)
        folder.mkdir()
        sizes.append(Gguf(q2_0=q2_0).writer().write(model, folder).stat().st_size)
    weights = sum(model.quantized(name).q.numel() for name in model.grid)
    assert sizes[0] - sizes[1] == weights // 64 * 18


PLAN = """\
model: {hf: family}
metrics: [size]
passes: [{pass: rtn, bits: BITS, group_size: SIZE}]
targets: [{target: gguf, OPTIONS}]
"""
BAD = {
    ("4", "64", "q2_0: true"): "q2_0 is for symmetric grids of 2 bits in groups of 64, and no weight has one",
    ("2", "32", "q2_0: true"): "q2_0 is for symmetric grids of 2 bits in groups of 64, and no weight has one",
    ("2", "64", "q2_0: true, runtime: transformers"): "q2_0: is for runtime: llama.cpp; transformers cannot read it",
    ("2", "64", "q2_0: 2"): "gguf: q2_0 is 2; input should be a valid boolean",
    ("2", "64", "q2: true"): "gguf: unknown option 'q2'; did you mean 'q2_0'?",
}


@pytest.mark.parametrize(("change", "line"), list(BAD.items()), ids=[" ".join(change) for change in BAD])
def test_what_q2_0_cannot_do_is_a_fault_of_the_plan(tmp_path: Path, change: tuple[str, str, str], line: str) -> None:
    write_letters(write_family("llama", tmp_path / "family", build=text_model("Llama", intermediate_size=128)))
    text = PLAN
    for word, value in zip(("BITS", "SIZE", "OPTIONS"), change, strict=True):
        text = text.replace(word, value)
    (tmp_path / "plan.yaml").write_text(text)
    messages = faults(tmp_path / "plan.yaml")
    assert any(line in message for message in messages), messages


def test_a_llama_cpp_that_is_too_old_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_two_bits()
    model, file = rounded(tmp_path), tmp_path / "model.gguf"
    write_gguf(model, file, two_bits=True)
    with pytest.raises(ModelError, match=r"model\.gguf: holds no tensor 'output\.bias'"):
        ggml.GgmlReader(file).dense("output.bias")
    monkeypatch.delattr("llama_cpp.llama_cpp.GGML_TYPE_Q2_0")  # an older one has no such number
    assert list(Gguf(q2_0=True).faults(model)) == [
        "q2_0: the installed llama.cpp has no Q2_0; llama-cpp-python 0.3.36 has"
    ]
    with pytest.raises(ModelError, match=r"attn_q\.weight' is Q2_0, which the installed llama\.cpp does not know"):
        list(GgufWriter(two_bits=True).prove(model, file))
