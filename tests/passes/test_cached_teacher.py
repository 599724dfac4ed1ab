"""A teacher drawn once: as good as the teacher itself, a fraction of the bytes, shared, and resumable."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from language_world import in_shards, write_folder, write_tokenizer
from tiny import faults, squeeze
from torch.nn import functional

from squeeze.data.text import TokenDataset
from squeeze.errors import DataError, SqueezeError
from squeeze.models.base import Batch
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.resident import ResidentLanguageModel
from squeeze.passes.base import Context
from squeeze.passes.distill.distill import Distill
from squeeze.store import Store
from squeeze.training import cached_teacher
from squeeze.training.cached_teacher import CachedTeacher, Taught

VOCABULARY = 512
PASS = Distill(epochs=1, batch_size=8, learning_rate=3e-3, cached=12)


def text(sequences: int = 32, seed: int = 1) -> TokenDataset:
    return TokenDataset("text", np.random.default_rng(seed).integers(0, VOCABULARY, (sequences, 16)))


def changed(folder: Path, target: Path, change: Callable[[torch.nn.Module], None]) -> Path:
    """A model with other weights, in another folder."""
    resident = ResidentLanguageModel(LanguageModel(folder))
    torch.manual_seed(1)
    with torch.no_grad():
        change(resident.module)
    return resident.commit(target).folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of many tokens, as sure of the next one as real ones are."""
    place = tmp_path_factory.mktemp("teacher")
    plain = write_folder(place / "plain", vocab_size=VOCABULARY, num_hidden_layers=1)
    return changed(plain, place / "sure", lambda module: module.lm_head.weight.mul_(3))


@pytest.fixture(scope="module")
def student(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The teacher with noise in its blocks."""

    def noise(module: torch.nn.Module) -> None:
        for weight in module.model.layers.parameters():
            weight.add_(torch.randn_like(weight) * weight.std() * 0.7 if weight.dim() > 1 else 0)

    return changed(folder, tmp_path_factory.mktemp("student") / "noisy", noise)


def lent(folder: Path, store: Path, data: TokenDataset | None = None) -> Context:
    opened = Store(store)
    journal = opened.journal("pass")
    load = partial(LanguageModel, folder)
    return Context(train_data=data or text(), original=load, journal=journal, store=opened, original_key="o")


def distance(model: LanguageModel, folder: Path) -> float:
    """KL divergence from the teacher on another text, in nats a token."""
    batch = Batch({"input_ids": torch.from_numpy(text(64, seed=2).tokens)})
    ours, theirs = (one.predict(batch).flatten(0, 1).log_softmax(1) for one in (model, LanguageModel(folder)))
    return functional.kl_div(ours, theirs, log_target=True, reduction="batchmean").item()


def test_a_cached_teacher_teaches_as_well_for_a_fraction_of_the_bytes(tmp_path, folder, student) -> None:
    run_context = lent(folder, tmp_path / "a", text(512))
    cached = PASS.run(LanguageModel(student), run_context)
    streamed = PASS.model_copy(update={"cached": None}).run(
        LanguageModel(student), lent(folder, tmp_path / "b", text(512))
    )
    before, samples, whole = (distance(model, folder) for model in (LanguageModel(student), cached, streamed))
    assert before - samples > 0.85 * (before - whole)  # 94 %; the rest is the noise of 12 tokens at 8,000 positions
    assert run_context.facts["teacher_bytes_per_token"] < min(40, 0.03 * VOCABULARY * 4)


def test_the_teacher_is_read_once_for_all_students(tmp_path: Path, folder: Path, student: Path) -> None:
    first = in_shards(PASS.run(LanguageModel(student), lent(folder, tmp_path)))
    again = lent(folder, tmp_path)
    again.original = None  # no teacher is lent
    again.journal = None
    second = in_shards(PASS.run(LanguageModel(student), again))
    assert all(torch.equal(first.tensor(name), second.tensor(name)) for name in first.skeleton.names())
    with pytest.raises(SqueezeError, match="lends no original model"):  # of other draws there are none yet
        PASS.model_copy(update={"cached": 6}).run(LanguageModel(student), again)


def test_drawing_goes_on_after_the_last_whole_piece(tmp_path, folder, student, monkeypatch) -> None:
    monkeypatch.setattr(cached_teacher, "PIECE_TOKENS", 8 * 16)
    whole, piece = lent(folder, tmp_path / "whole"), cached_teacher._piece
    samples: list[object] = []
    PASS.run(LanguageModel(student), whole)

    def killed(decoder, batch, unique, seed):
        if seed[1] == 2 and not samples.count("killed"):
            samples.append("killed")
            raise KeyboardInterrupt
        samples.append(seed[1])
        return piece(decoder, batch, unique, seed)

    monkeypatch.setattr(cached_teacher, "_piece", killed)
    again = lent(folder, tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        PASS.run(LanguageModel(student), again)
    PASS.run(LanguageModel(student), again)
    assert samples == [0, 1, "killed", 2, 3]
    one, other = (next(context.store.folder.glob("entries/*/tokens.npy")) for context in (whole, again))
    assert one.read_bytes() == other.read_bytes()
    assert not list((again.store.folder / "journals").rglob("teacher-*"))


def test_batches_carry_what_was_drawn_for_their_sequences(tmp_path: Path, folder: Path) -> None:
    data = text()
    cached_teacher.write_cache(tmp_path, LanguageModel(folder), data, 12, 0, None, Context().progress)
    batch = Taught(data, CachedTeacher(tmp_path)).batch(np.array([5, 2]))
    tokens, shares = batch.inputs["teacher_tokens"], batch.inputs["teacher_shares"]
    assert tokens.shape == shares.shape == (2, 15, tokens.shape[2])
    torch.testing.assert_close(shares.sum(2), torch.ones(2, 15))
    read = Batch({"input_ids": torch.from_numpy(data.tokens[[5, 2]])})
    likely = LanguageModel(folder).predict(read).softmax(2)[:, :-1].gather(2, tokens).mul(shares > 0).sum(2)
    assert likely.mean() > 0.3  # what was drawn is what the teacher finds likely there
    with pytest.raises(DataError, match="8 sequences, and the teacher's predictions are of others"):
        Taught(text(8), CachedTeacher(tmp_path))


def test_a_teacher_of_another_vocabulary_is_refused_before_anything_is_drawn(tmp_path, folder, monkeypatch) -> None:
    monkeypatch.setattr(cached_teacher, "_piece", None)
    other = LanguageModel(write_folder(tmp_path / "other", vocab_size=130))
    what = "the teacher predicts 512 classes, the student 130; a teacher with the student's classes, or its tokenizer"
    with pytest.raises(SqueezeError, match=what):
        PASS.run(other, lent(folder, tmp_path / "store"))


PLAN = """\
model: {hf: ./model}
data:
  train: {text: train.txt, length: 16}
  evaluate: {text: held.txt, length: 16}
metrics: [kl]
passes:
  - {pass: rtn, bits: 2, group_size: 16}
  - {pass: distill, quantized: all, steps: 40, batch_size: 8, learning_rate: 0.003, cached: 12}
"""
FAULTS = {
    "passes.1.temperature=2": "cached: the teacher is drawn from at temperature 1, not 2; leave temperature out",
    "passes.1.divergence=reverse": "cached: what is drawn can be learnt forward only; divergence: reverse needs all",
    'passes.1.features="model.layers.0"': "cached: features are the teacher's too, and it is not in memory",
    "passes.1.cached=300": "cached is 300; input should be less than or equal to 256",
    "passes.1.cached=0": "cached is 0; input should be greater than 0",
    "memory=200MB": "that distill (line 8) takes",
}


@pytest.fixture
def world(tmp_path: Path) -> Path:
    write_tokenizer(write_folder(tmp_path / "model", num_hidden_layers=1))
    draw = np.random.default_rng(0)
    for name in ("train", "held"):
        words = ["".join(draw.choice(list("abcdefghijk"), 9)) + " the " for _ in range(120)]
        (tmp_path / f"{name}.txt").write_text("\n\n".join("".join(words[i : i + 5]) for i in range(0, 120, 5)))
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path


@pytest.mark.parametrize("setting", FAULTS)
def test_what_a_cached_teacher_cannot_teach_is_a_fault(world: Path, setting: str) -> None:
    messages = faults(world / "plan.yaml", setting)
    assert any(FAULTS[setting] in line for line in messages), messages


def test_the_bytes_are_told_before_and_the_row_tells_what_came_back(world: Path, capsys) -> None:
    assert squeeze("check", world / "plan.yaml", "--explain") == 0
    assert (
        "distill: the store keeps about 23 bytes of the teacher for each token of data.train" in capsys.readouterr().out
    )
    assert squeeze("run", world / "plan.yaml", "--store", world / "store", "--out", world / "out") == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "distill: recovered" in output
    assert "of what was lost in KL" in output
