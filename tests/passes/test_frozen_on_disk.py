"""A training whose frozen weights stay on disk: the same model, bit for bit, with one block in memory at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from grid_world import torch_model
from language_world import in_shards, write_folder
from test_language_training import context, counting
from test_trained_weights import PLAN, plan_faults, quantized
from torch import nn

from squeeze.models.language.frozen import absent
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.distill.distill import Distill
from squeeze.passes.distill.finetune import Finetune
from squeeze.passes.distill.training import TrainingPass
from squeeze.training.trained import train_some

SETTINGS = {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3, "warm_up": 0.0}
FAMILIES = {
    "Llama": {},
    "Gemma2": {"sliding_window": 8, "tie_word_embeddings": True},
    "Qwen2": {},
    "Mixtral": {"num_local_experts": 4},
}
TRAINED = {
    "lora": {"train": "lora", "rank": 4},
    "norms": {"train": "norms"},
    "last_blocks": {"train": "last_blocks", "blocks": 1},
}


def trained(pass_: TrainingPass, model: LanguageModel, lent: Context) -> LanguageModel:
    return in_shards(pass_.run(model, lent))


def require_equal(one: LanguageModel, other: LanguageModel) -> None:
    for name in one.skeleton.names():
        assert torch.equal(one.tensor(name), other.tensor(name)), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("train", TRAINED)
def test_the_result_is_that_of_a_training_in_memory(tmp_path: Path, train: str, dtype: torch.dtype) -> None:
    import transformers

    folder = write_folder(tmp_path / "model")
    transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).save_pretrained(folder)
    options = SETTINGS | TRAINED[train] | {"alpha": 0.5}
    made = [
        trained(Distill(**options, **how), LanguageModel(folder), context(tmp_path / str(number), folder))
        for number, how in enumerate([{"recompute": True}, {"frozen": "disk"}])
    ]
    require_equal(*made)
    assert any(not torch.equal(made[0].tensor(n), LanguageModel(folder).tensor(n)) for n in made[0].skeleton.names())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_from_disk_as_in_memory(tmp_path: Path, family: str) -> None:
    folder = write_folder(tmp_path / "model", family, **FAMILIES[family])
    require_equal(
        *(
            trained(Finetune(**SETTINGS, train="lora", **how), LanguageModel(folder), context(tmp_path / str(number)))
            for number, how in enumerate([{"recompute": True}, {"frozen": "disk"}])
        )
    )


def test_features_inside_blocks_are_learnt_as_in_memory(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    teacher = write_folder(tmp_path / "teacher", intermediate_size=48)
    options = SETTINGS | {"train": "lora", "features": ["model.layers.0", "model.layers.1.mlp"]}
    require_equal(
        *(
            trained(Distill(**options, **how), LanguageModel(folder), context(tmp_path / str(number), teacher))
            for number, how in enumerate([{"recompute": True}, {"frozen": "disk"}])
        )
    )


def test_an_adapter_over_integers_is_the_same_and_the_integers_stay(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    before = quantized(LanguageModel(folder), tmp_path / "rtn", bits=4)
    adapters = []
    for how in ("memory", "disk"):
        pass_ = Distill(**SETTINGS, quantized="adapter", rank=4, frozen=how, recompute=how == "memory")
        lent = context(tmp_path / how, folder)
        after = trained(pass_, before, lent)
        assert not list(pass_.check_effect(before, after, lent.facts))
        assert lent.facts["grid"]["proven"] == [14, 14]
        assert after.adapter is not None
        adapters.append(after.adapter)
    for name in adapters[0].names:
        for part in ("down", "up"):
            one, other = (getattr(adapter.update(name), part) for adapter in adapters)
            assert torch.equal(one, other)


@pytest.mark.parametrize("learning", [True, False], ids=["learning", "teaching"])
def test_one_block_has_weights_at_a_time(tmp_path: Path, learning: bool) -> None:
    student = LanguageModel(write_folder(tmp_path / "model", num_hidden_layers=4)).resident(on_disk=True)
    train_some(student, "lora", blocks=1, rank=4, seed=0)
    seen: list[int] = []

    def count(*_: object) -> None:
        seen.append(sum(map(has_weights, student.blocks())))

    for block in student.blocks():
        block.mlp.gate_proj.register_forward_hook(count)
    with torch.set_grad_enabled(learning):
        value = student.predictions(counting(2).batch([0, 1])).square().mean()
    if learning:
        value.backward()
    assert seen == [1] * (8 if learning else 4)  # forward, and again for the gradient
    assert not any(map(has_weights, student.blocks()))


def has_weights(block: nn.Module) -> bool:
    return "mlp.gate_proj.weight" not in absent(block)


def test_what_is_read_from_disk_is_not_foretold_as_in_memory(tmp_path: Path) -> None:
    deep, deeper = (
        LanguageModel(write_folder(tmp_path / str(layers), hidden_size=256, num_hidden_layers=layers))
        for layers in (4, 16)
    )
    takes = {
        how: [
            Distill(batch_size=1, train="norms", frozen=how).memory_bytes(model, 16, None) for model in (deep, deeper)
        ]
        for how in ("memory", "disk")
    }
    more = {how: second - first for how, (first, second) in takes.items()}
    assert more["disk"] < more["memory"] / 20
    assert all(disk < memory for disk, memory in zip(takes["disk"], takes["memory"], strict=True))


FAULTS: dict[tuple[str, ...], str] = {
    ("passes.0={pass: finetune, frozen: disk}",): "frozen: disk leaves nothing on disk with train: all, which freezes",
    ("passes.1.frozen=disk",): "frozen: disk leaves nothing on disk with quantized: scales, which trains every grid",
    ("passes.0={pass: finetune, train: lora, frozen: disk, sharded: true}",): "and sharded: true keeps parts of them",
    ("passes.0={pass: finetune, train: lora, frozen: disk, recompute: true}",): "recompute is what frozen: disk does",
    ("passes.0={pass: finetune, train: lora, frozen: disc}",): "frozen is 'disc'",
}


@pytest.mark.parametrize("settings", FAULTS, ids=lambda one: one[0])
def test_what_leaves_nothing_on_disk_is_a_fault(tmp_path: Path, settings: tuple[str, ...]) -> None:
    messages = plan_faults(tmp_path, PLAN, "passes.1.epochs=1", *settings)
    assert any(FAULTS[settings] in line for line in messages), messages


def test_a_network_in_memory_has_nothing_on_disk() -> None:
    (line,) = Finetune(train="lora", frozen="disk").faults(torch_model())
    assert line == "finetune: frozen: disk is for language models, whose weights lie in shards; leave it out"
