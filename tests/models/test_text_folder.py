"""Hugging Face folders that read sentences: opened as transformers opens them, whatever head and pooling they have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from text_world import SIZES, write_bert, write_pooling

from squeeze.data.sentences import SentenceDataset
from squeeze.errors import DataError, ModelError
from squeeze.evaluate.fit import require_fit
from squeeze.models.base import Batch
from squeeze.models.spec import ModelSpec, folder_task
from squeeze.models.torch_model import TorchModel

GENERATOR = np.random.default_rng(0)
SENTENCES = SentenceDataset(
    "random", sorted((GENERATOR.integers(1, 160, n) for n in (3, 9, 5)), key=len), np.array([0, 1, 0]), 0
)


def read(folder: Path) -> TorchModel:
    model = ModelSpec(hf=str(folder)).read(folder.parent)
    assert isinstance(model, TorchModel)
    return model


def batch() -> Batch:
    return SENTENCES.batch(np.arange(3))


def tokens_of(folder: Path) -> torch.Tensor:
    """What stock transformers gives for the batch, ``[n, length, hidden]``."""
    from transformers import AutoModel

    with torch.no_grad():
        result: torch.Tensor = AutoModel.from_pretrained(folder)(**batch().inputs).last_hidden_state
    return result


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [("Bert", {}), ("Roberta", {"pad_token_id": 0}), ("DistilBert", {"dim": 32, "n_layers": 1, "n_heads": 2})],
)
def test_a_sequence_classifier_gives_the_logits_that_transformers_gives(
    tmp_path: Path, kind: str, sizes: dict[str, Any]
) -> None:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES | sizes, num_labels=3)
    stock = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    stock.save_pretrained(tmp_path / "model")
    model = read(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(model.predict(batch()), stock(**batch().inputs).logits)
    assert (model.task.name, folder_task(tmp_path / "model"), model.vocabulary) == ("classify", "classify", 160)
    assert model.class_names() == ["LABEL_0", "LABEL_1", "LABEL_2"]


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM"], ids=["plain", "under a head"])
@pytest.mark.parametrize("mode", [None, "mean_tokens", "cls_token"], ids=["no files", "mean", "cls"])
def test_an_encoder_is_pooled_as_its_files_say(tmp_path: Path, kind: str, mode: str | None) -> None:
    folder = write_bert(tmp_path / "model", kind)
    if mode is not None:
        write_pooling(folder, mode, "Normalize")
    mask = batch().inputs["attention_mask"][..., None].float()
    tokens = tokens_of(folder)
    expected = tokens[:, 0] if mode == "cls_token" else (tokens * mask).sum(1) / mask.sum(1)
    if mode is not None:
        expected = torch.nn.functional.normalize(expected, dim=1)
    model = read(folder)
    assert (model.task.name, folder_task(folder), model.class_names()) == ("embed", "embed", None)
    assert torch.allclose(model.predict(batch()), expected, atol=1e-5)


def test_names_that_old_checkpoints_have_are_known(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "model", "BertModel")
    expected, file = read(folder).predict(batch()), folder / "model.safetensors"
    old = {n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
           for n, value in load_file(file).items()}  # fmt: skip
    save_file(old | {"embeddings.position_ids": torch.arange(64)[None]}, file)
    assert any(name.endswith("gamma") for name in old)
    assert torch.equal(read(folder).predict(batch()), expected)


def test_a_stored_encoder_is_read_back_with_its_pooling(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "model", "BertModel")
    write_pooling(folder, "cls_token", "Normalize")
    (tmp_path / "stored").mkdir()
    model = read(folder)
    model.save(tmp_path / "stored")
    again = TorchModel.load(tmp_path / "stored")
    assert torch.equal(again.predict(batch()), model.predict(batch()))
    assert again.task.name == "embed"


def _step(kind: str) -> str:
    return json.dumps([{"type": f"sentence_transformers.models.{kind}", "path": "1_Pooling"}])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("modules.json", "{}", r"modules\.json: is no list of steps"),
        ("modules.json", _step("Dense"), r"step 'Dense' is not known; Transformer, Pooling, Normalize are"),
        ("modules.json", _step("Pooling").replace("1_P", "../P"), r"path '\.\./Pooling' is no folder beside it"),
        ("1_Pooling/config.json", '{"pooling_mode_max_tokens": true}', "says pooling_mode_max_tokens; one of"),
        ("1_Pooling/config.json", "[1]", r"config\.json: is no mapping"),
    ],
    ids=["no list", "unknown step", "outside", "unknown mode", "no mapping"],
)
def test_a_pooling_that_is_not_known_is_one_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    folder = write_bert(tmp_path / "model", "BertModel")
    write_pooling(folder)
    (folder / name).write_text(content)
    with pytest.raises(ModelError, match=message):
        read(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 90}, r"data\.evaluate: token \d+ is none of the model's 90; its own tokenizer"),
        ({"max_position_embeddings": 8}, "the longest sentence has 9 tokens, and the model reads 8; length: 8 would"),
        ({"id2label": {0: "one"}}, r"data\.evaluate: label 1 is outside the model's 1 classes"),
    ],
    ids=["vocabulary", "length", "classes"],
)
def test_sentences_that_the_model_cannot_read_are_one_line(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    model = read(write_bert(tmp_path / "model", **changes))
    with pytest.raises(DataError, match=message):
        require_fit(model, "evaluate", SENTENCES)


def test_the_published_minilm_is_what_its_factory_makes_of_it(minilm: Path) -> None:
    factory = ModelSpec(module="minilm:encoder", weights=str(minilm / "model.safetensors")).read(minilm)
    model = read(minilm)
    assert torch.allclose(model.predict(batch()), factory.predict(batch()), atol=1e-5)
    assert (model.context, model.vocabulary) == (512, 30522)
