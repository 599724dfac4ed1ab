"""Decoders of every family in ONNX Runtime GenAI: the same graph, the same tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from families import FAMILIES, tokens, write_family
from language_world import in_shards

from squeeze.errors import ModelError
from squeeze.models.facts import Facts
from squeeze.models.language.artifact import LanguageArtifact
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.quantize.rtn import Rtn
from squeeze.runtimes.genai import GenaiDecoder
from squeeze.runtimes.onnx_decoder import OnnxDecoder
from squeeze.writers.decoder.export import export_decoder
from squeeze.writers.genai import GenaiWriter

pytest.importorskip("onnxruntime_genai", reason="pip install 'squeeze[genai]' for these tests")


def both(folder: Path, name: str) -> tuple[OnnxDecoder, GenaiDecoder]:
    model = LanguageModel(write_family(name, folder / "family"))
    model = in_shards(Rtn(bits=4, group_size=16, embeddings=8).run(model, Context()))
    decoder = export_decoder(model, folder / "onnx")
    return decoder, GenaiDecoder(GenaiWriter().write(decoder, folder / "genai").parent, decoder.facts)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_genai_says_what_onnx_runtime_says(tmp_path: Path, name: str) -> None:
    decoder, genai = both(tmp_path, name)
    own, others = (torch.cat([logits for _, logits in form.logits(tokens(2, 9))]) for form in (decoder, genai))
    assert own.std() > 0.1
    assert torch.allclose(own, others, atol=1e-5)
    for prompt in tokens(2, 9).tolist():
        assert list(genai.generate(prompt, 24)) == list(decoder.generate(prompt, 24))


@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_text_read_in_pieces_is_read_the_same(tmp_path: Path, name: str) -> None:
    """So that the logits of a long text need not lie in memory together."""
    (text,) = tokens(1, 16)
    for form in both(tmp_path, name):
        ((_, whole),) = form.logits(text[None])
        pieces = list(form.pieces(text, 5))
        assert [(part.start, part.stop) for part, _ in pieces] == [(0, 5), (5, 10), (10, 15), (15, 16)]
        assert torch.allclose(torch.cat([logits for _, logits in pieces]), whole[0], atol=1e-4)


def test_the_folder_is_the_decoders_with_a_config(tmp_path: Path) -> None:
    decoder, genai = both(tmp_path, "command-r")
    assert {file.name for file in genai.files} == {file.name for file in decoder.files} | {"genai_config.json"}
    assert genai.nbytes() == decoder.nbytes()
    (tmp_path / "kept").mkdir()
    genai.save(tmp_path / "kept")
    assert isinstance(LanguageArtifact.load(tmp_path / "kept"), GenaiDecoder)


def test_what_was_opened_to_write_the_config_is_closed_again(tmp_path: Path) -> None:
    """It holds all weights."""
    decoder, _ = both(tmp_path, "llama3.1")
    assert decoder.session.vocabulary == decoder.vocabulary
    GenaiWriter().write(decoder, tmp_path / "again")
    assert "sessions" not in vars(decoder)


def test_a_text_longer_than_the_context_is_refused(tmp_path: Path) -> None:
    _, genai = both(tmp_path, "llama3.1")
    config = json.loads(genai.main.read_text())
    config["model"]["context_length"] = 12
    genai.main.write_text(json.dumps(config))
    again = GenaiDecoder(genai.folder, genai.facts)
    with pytest.raises(ModelError, match="16 tokens are more than the 12 that a text may have"):
        list(again.logits(tokens()))
    with pytest.raises(ModelError, match="13 tokens are more than the 12 that a text may have"):
        list(again.generate([1] * 4, 9))


def test_a_text_as_long_as_the_context_is_read(tmp_path: Path) -> None:
    """Its logits are those of a longer context."""
    _, genai = both(tmp_path, "llama3.1")
    expected = torch.cat([logits for _, logits in genai.logits(tokens(1, 12))])
    config = json.loads(genai.main.read_text())
    config["model"]["context_length"] = 12
    genai.main.write_text(json.dumps(config))
    again = GenaiDecoder(genai.folder, genai.facts)
    assert torch.equal(torch.cat([logits for _, logits in again.logits(tokens(1, 12))]), expected)


BAD = {
    "no json": ("{", "no GenAI config"),
    "no graph": ("{}", "no GenAI config .KeyError: 'model'"),
    "graph elsewhere": (
        {"model": {"decoder": {"filename": "../model.onnx"}, "vocab_size": 8, "context_length": 8}},
        r"names the graph '../model.onnx', which is no file beside it; refused",
    ),
}


@pytest.mark.parametrize(("config", "line"), list(BAD.values()), ids=list(BAD))
def test_a_config_that_cannot_serve_is_one_line(tmp_path: Path, config: object, line: str) -> None:
    (tmp_path / "genai_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(ModelError, match=line):
        list(GenaiDecoder(tmp_path, Facts(1, 1e-3)).logits(torch.tensor([[1, 2]])))


def test_a_model_that_genai_refuses_is_one_line(tmp_path: Path) -> None:
    _, genai = both(tmp_path, "llama3.1")
    config = json.loads(genai.main.read_text())
    config["model"]["type"] = "nosuch"
    genai.main.write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"GenAI stopped: Unsupported model_type in config\.json: nosuch"):
        list(GenaiDecoder(genai.folder, genai.facts).logits(tokens()))
