"""The original of a language model is kept as hidden states, whose logits are exact: nothing moved reads as nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from language_world import write_folder

from squeeze.data.text import TokenDataset
from squeeze.errors import ModelError
from squeeze.evaluate.tokens import HIDDEN, Reference, TokenScores, reference_bytes, score_tokens
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.passes.quantize.language.rtn import Rtn
from squeeze.progress import Progress

DATA = TokenDataset("text", np.random.default_rng(0).integers(0, 128, (6, 24)))


def bf16(folder: Path, **changes: int) -> Path:
    import transformers

    write_folder(folder, **changes)
    transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[LanguageModel, Path]:
    folder = tmp_path_factory.mktemp("original")
    model, entry = LanguageModel(bf16(folder / "model")), folder / "entry"
    entry.mkdir()
    score_tokens(model, DATA, entry, None, Progress(), "score original").save(entry)
    return model, entry


def scored(model: object, original: tuple[LanguageModel, Path], folder: Path) -> TokenScores:
    return score_tokens(model, DATA, folder, Reference(*original), Progress(), "score")  # type: ignore[arg-type]


def test_a_model_that_did_not_change_has_moved_by_nothing(original, tmp_path: Path) -> None:
    same = scored(LanguageModel(original[0].folder), original, tmp_path)
    assert same.kl.max() < 1e-6
    assert not same.flips.any()
    assert np.array_equal(same.nll, TokenScores.load(original[1]).nll)
    assert not list(tmp_path.iterdir())  # only the original's hidden states are kept


def test_a_plain_export_of_a_bf16_model_has_moved_by_nothing(original, tmp_path: Path) -> None:
    exported = ExportOnnx().run(LanguageModel(original[0].folder), Context())
    moved = scored(exported, original, tmp_path)
    assert moved.kl.max() < 1e-6
    assert not moved.flips.any()


def test_int8_rounding_reads_as_stock_transformers_in_float32_says(original, tmp_path: Path) -> None:
    import transformers

    rounded = Rtn(bits=8, group_size=32).run(original[0], Context())
    tokens = torch.from_numpy(DATA.tokens)
    stock = transformers.AutoModelForCausalLM.from_pretrained(original[0].folder, dtype=torch.float32).eval()
    with torch.no_grad():
        log_p = stock(tokens).logits[:, :-1].double().log_softmax(-1)
        for name, parameter in stock.named_parameters():
            if name in rounded.grid:
                parameter.copy_(rounded.tensor(name, wide=True))
        log_q = stock(tokens).logits[:, :-1].double().log_softmax(-1)
    truth = float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
    found = scored(rounded, original, tmp_path)
    assert float(found.kl.mean()) == pytest.approx(truth, rel=0.05)
    assert found.flips.mean() == pytest.approx(float((log_p.argmax(-1) != log_q.argmax(-1)).double().mean()), abs=0.01)


def test_the_original_takes_four_bytes_a_channel_and_token_on_disk(original) -> None:
    size = (original[1] / HIDDEN).stat().st_size
    assert size == reference_bytes(original[0], DATA.tokens.size) == 4 * 64 * DATA.tokens.size


def test_another_vocabulary_cannot_be_compared(original, tmp_path: Path) -> None:
    other = LanguageModel(bf16(tmp_path / "other", vocab_size=160))
    with pytest.raises(ModelError, match="the model has 160 tokens, the original 128"):
        scored(other, original, tmp_path)
