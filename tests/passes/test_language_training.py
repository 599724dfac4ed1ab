"""``finetune`` and ``distill`` on language models: the same loop, next-token predictions, a stock folder behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language_world import LETTERS, in_shards, logits, write_folder, write_tokenizer
from tiny import faults
from torch.nn import functional

from squeeze.api import compress, load
from squeeze.data.text import TokenDataset
from squeeze.errors import SqueezeError
from squeeze.models.base import Batch
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.resident import ResidentLanguageModel
from squeeze.passes.base import Context
from squeeze.passes.distill.distill import Distill
from squeeze.passes.distill.finetune import Finetune
from squeeze.store import Journal
from squeeze.training.loop import Training

SETTINGS = {"epochs": 3, "batch_size": 8, "learning_rate": 3e-3, "optimizer": "adamw", "warm_up": 0.0}
FINETUNE = Finetune(**SETTINGS)
DISTILL = Distill(**SETTINGS, temperature=1.0)


def counting(sequences: int = 32) -> TokenDataset:
    """Each token is the one before plus three: what a model can learn in a few steps."""
    starts = np.arange(sequences)[:, None]
    return TokenDataset("counting", (starts + 3 * np.arange(16)[None]) % 128)


def context(folder: Path, original: Path | None = None) -> Context:
    load = (lambda: LanguageModel(original)) if original else None
    return Context(train_data=counting(), journal=Journal(folder), original=load)


def loss_of(model: LanguageModel) -> float:
    tokens = torch.from_numpy(counting().tokens)
    predicted = model.predict(Batch({"input_ids": tokens}))[:, :-1].flatten(0, 1)
    return functional.cross_entropy(predicted, tokens[:, 1:].flatten()).item()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("original"))


@pytest.mark.parametrize("tied", [False, True], ids=["apart", "tied"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_finetune_learns_the_next_token_and_leaves_a_stock_folder(tmp_path: Path, tied: bool, dtype: str) -> None:
    import transformers

    folder = write_folder(tmp_path / "model", tie_word_embeddings=tied)
    transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).save_pretrained(folder)
    before = LanguageModel(folder)
    after = in_shards(FINETUNE.run(before, context(tmp_path / "journal")))
    assert loss_of(after) < 0.6 * loss_of(before)
    assert after.nbytes() <= before.nbytes() + 4096  # the same tensors, tied ones once, in the dtypes that they had
    after.save_dense(tmp_path / "stock")
    stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "stock")
    assert str(stock.dtype) == f"torch.{dtype}"
    stock = stock.float()  # as we score
    tokens = torch.from_numpy(np.random.default_rng(1).integers(0, 128, (3, 16)))
    with torch.no_grad():
        torch.testing.assert_close(stock(tokens).logits.float(), logits(after), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    "features", ["model.layers", {"model.layers.0": "model.layers"}], ids=["both", "the teacher's"]
)
def test_a_layer_that_no_model_calls_is_no_feature(tmp_path: Path, original: Path, features: Any) -> None:
    with pytest.raises(SqueezeError, match=r"'model\.layers' gives no tensor in the (student|teacher); a layer"):
        Distill(**SETTINGS, features=features).run(LanguageModel(original), context(tmp_path, original))


def test_a_student_comes_nearer_to_the_original(tmp_path: Path, original: Path) -> None:
    student = LanguageModel(write_folder(tmp_path / "student"))
    damaged = ResidentLanguageModel(student)
    with torch.no_grad():
        for parameter in damaged.module.model.layers.parameters():
            parameter.mul_(0.7)
    student = damaged.commit(tmp_path / "damaged")
    batch = Batch({"input_ids": torch.from_numpy(counting().tokens)})
    expected = LanguageModel(original).predict(batch).log_softmax(-1)
    taught = DISTILL.run(student, context(tmp_path / "journal", original))
    before, after = (
        functional.kl_div(m.predict(batch).log_softmax(-1), expected, log_target=True, reduction="batchmean")
        for m in (student, taught)
    )
    assert after < 0.5 * before


@pytest.mark.parametrize("products", [None, "bfloat16", "float32"])
@pytest.mark.parametrize("units", [True, False], ids=["units", "no units"])
def test_products_are_rounded_where_the_cpu_has_units_for_it(tmp_path, monkeypatch, products, units) -> None:
    """Precision is set while a batch is learnt from, and restored."""
    for module in ("squeeze.training.options", "squeeze.algorithms.hessian"):
        monkeypatch.setattr(f"{module}.multiplies", lambda dtype: units)
    settings, seen = torch.backends.mkldnn.matmul, []  # type: ignore[attr-defined]  # torch sets it
    step = Training._step

    def watched(*arguments):
        seen.append(settings.fp32_precision)
        return step(*arguments)

    monkeypatch.setattr(Training, "_step", watched)
    before, run_context = settings.fp32_precision, context(tmp_path / "journal")
    pass_ = FINETUNE.model_copy(update={"products": products, "steps": 1})
    pass_.run(LanguageModel(write_folder(tmp_path / "model")), run_context)
    rounded = units and products != "float32"
    assert seen == ["bf16" if rounded else before]
    assert settings.fp32_precision == before
    assert run_context.facts["products"] == ("bfloat16" if rounded else "float32")


@pytest.mark.parametrize("pass_", [FINETUNE, DISTILL], ids=["finetune", "distill"])
def test_a_training_killed_inside_an_epoch_ends_with_the_same_bytes(tmp_path, original, pass_, monkeypatch) -> None:
    start = write_folder(tmp_path / "start", num_hidden_layers=1, vocab_size=128)
    teacher = start if pass_ is DISTILL else original
    pass_ = pass_.model_copy(update={"held_out": 0.2})
    whole = pass_.run(LanguageModel(start), context(tmp_path / "whole", teacher))
    monkeypatch.setattr("squeeze.training.loop.CHECKPOINT_SECONDS", -1.0)  # after every step
    one = Training._one

    def killed(training, optimizer, loss, batch, where):
        if where == (2, 2):
            raise KeyboardInterrupt
        return one(training, optimizer, loss, batch, where)

    monkeypatch.setattr(Training, "_one", killed)
    with pytest.raises(KeyboardInterrupt):
        pass_.run(LanguageModel(start), context(tmp_path / "killed", teacher))

    def counted(training, optimizer, loss, batch, where):
        done.append(where)
        return one(training, optimizer, loss, batch, where)

    done: list[tuple[int, int]] = []
    monkeypatch.setattr(Training, "_one", counted)
    resumed = pass_.run(LanguageModel(start), context(tmp_path / "killed", teacher))
    assert done == [(2, 2), (2, 3)]
    for name in whole.skeleton.names():
        assert torch.equal(whole.tensor(name), resumed.tensor(name)), name


def test_parts_of_a_batch_give_the_gradient_of_the_whole(tmp_path: Path, original: Path, monkeypatch) -> None:
    whole = FINETUNE.run(LanguageModel(original), context(tmp_path / "whole"))
    monkeypatch.setattr(ResidentLanguageModel, "micro_batch", lambda *_: 3)  # 8 = 3 + 3 + 2
    parts = FINETUNE.run(LanguageModel(original), context(tmp_path / "parts"))
    torch.testing.assert_close(logits(parts), logits(whole), rtol=0, atol=0.02)


def test_logits_of_a_micro_batch_are_bounded_whatever_the_vocabulary(original: Path) -> None:
    resident = LanguageModel(original).resident()
    long = Batch({"input_ids": torch.zeros(64, 1 << 16, dtype=torch.int64, device="meta")})
    assert resident.micro_batch(long) == 4  # 4 x 65,536 tokens x 128 = 2^25 logits
    assert resident.micro_batch(Batch({"input_ids": torch.zeros(64, 1 << 19, device="meta")})) == 1


def test_a_teacher_with_another_vocabulary_is_refused(tmp_path: Path, original: Path) -> None:
    student = LanguageModel(write_folder(tmp_path / "other", vocab_size=130))
    with pytest.raises(SqueezeError, match="the teacher predicts 128 classes, the student 130"):
        DISTILL.run(student, context(tmp_path / "journal", original))


PLAN = """\
model: {hf: ./model}
data:
  train: {text: train.txt, length: 16}
  evaluate: {text: held.txt, length: 16}
metrics: [perplexity, kl]
passes:
  - {pass: finetune, epochs: 2, batch_size: 8, learning_rate: 0.003, optimizer: adamw}
  - {pass: distill, epochs: 1, batch_size: 8, learning_rate: 0.001, optimizer: adamw, features: "model.layers.*"}
"""


@pytest.fixture
def world(tmp_path: Path) -> Path:
    write_tokenizer(write_folder(tmp_path / "model", num_hidden_layers=1))
    draw = np.random.default_rng(0)
    for name in ("train", "held"):
        words = ["".join(draw.choice(list(LETTERS[:6]), 5)) + " the " for _ in range(60)]
        (tmp_path / f"{name}.txt").write_text(" ".join(words))
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path


def test_a_plan_trains_a_language_model_on_text(world: Path) -> None:
    run = compress(load(world / "plan.yaml"), store=world / "store")
    original, tuned, distilled = (row.scores["perplexity"].value for row in run.ledger.rows)
    assert tuned < 0.5 * original
    assert tuned < distilled < original  # the original teaches its own ways again


FAULTS = {
    "passes.0.augment=[flip]": "finetune: augment changes images, and the model reads none: leave it out",
    'passes.1.features="model.layer.0"': 'distill: features "model.layer.0" matches no layer; did you mean',
    "passes.0.epochs=0": "epochs is 0; input should be greater than 0",
    "passes.0.optimizer=adam": "optimizer is 'adam'",
    "data.train=null": "train",
}


@pytest.mark.parametrize("setting", FAULTS)
def test_what_cannot_be_trained_is_a_fault(world: Path, setting: str) -> None:
    messages = faults(world / "plan.yaml", setting)
    assert any(FAULTS[setting] in line for line in messages), messages
