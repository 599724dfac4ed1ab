"""What a training takes in memory is told before it runs, from shapes."""

from __future__ import annotations

from pathlib import Path

import pytest
from language_world import write_folder

from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.distill.distill import Distill
from squeeze.passes.distill.finetune import Finetune
from squeeze.passes.distill.training import SAVING, TrainingPass
from squeeze.passes.prune.prune_depth import RESUMED_BYTES, PruneDepth


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return LanguageModel(write_folder(tmp_path_factory.mktemp("model"), vocab_size=8192, num_hidden_layers=6))


LESS_THAN_ALL = {
    "lora": Finetune(train="lora"),
    "norms": Finetune(train="norms"),
    "last blocks": Finetune(train="last_blocks", blocks=1),
    "sgd": Finetune(optimizer="sgd"),
    "adafactor": Finetune(optimizer="adafactor"),
    "recompute": Finetune(recompute=True),
    "small batches": Finetune(batch_size=8),
}


@pytest.mark.parametrize("smaller", LESS_THAN_ALL)
def test_what_saves_memory_is_foretold_to(model: LanguageModel, smaller: str) -> None:
    assert takes(LESS_THAN_ALL[smaller], model) < takes(Finetune(), model)


def test_a_teacher_in_memory_takes_its_weights_and_its_logits(model: LanguageModel) -> None:
    beside = takes(Distill(), model) - takes(Distill(cached=12), model)
    assert beside >= 4 * (model.parameters() + 16 * 256 * model.vocabulary)
    assert takes(Distill(cached=12), model) == takes(Finetune(), model)


def test_adamw_keeps_two_values_of_each_weight_that_it_trains(model: LanguageModel) -> None:
    sgd, adamw = (takes(Finetune(optimizer=name), model) for name in ("sgd", "adamw"))
    assert adamw - sgd == 4 * model.parameters()


def test_what_would_fit_is_proposed(model: LanguageModel) -> None:
    pass_ = Finetune(batch_size=4)
    for words, options in (
        ("recompute: true", {"recompute": True}),
        ("optimizer: adafactor", {"optimizer": "adafactor"}),
        ("train: lora, recompute: true", {"train": "lora", "recompute": True}),
        ("train: lora, frozen: disk", {"train": "lora", "frozen": "disk"}),
    ):
        limit = takes(pass_.model_copy(update=options), model)
        proposed = pass_.saving(model, 256, limit)
        assert proposed == words or takes(pass_.model_copy(update=SAVING[str(proposed)]), model) <= limit
    least = takes(pass_.model_copy(update=SAVING["train: lora, frozen: disk"]), model)
    assert pass_.saving(model, 256, least - 1) is None


def test_what_would_be_refused_or_read_by_nothing_is_not_proposed(model: LanguageModel) -> None:
    fits = takes(Finetune(batch_size=4, train="lora", recompute=True), model)
    assert Finetune(batch_size=4).saving(model, 256, fits) is not None
    assert Finetune(batch_size=4, optimizer="adafactor").saving(model, 256, fits) is None  # refused with lora
    assert Distill(batch_size=4, cached=12, quantized="all").saving(model, 256, fits) is None  # quantized decides


def test_depth_pruning_keeps_within_what_the_plan_allows(model: LanguageModel) -> None:
    pass_, tokens = PruneDepth(blocks=1), 1 << 16
    unbound, bound = (pass_.memory_bytes(model, tokens, limit) for limit in (None, 1 << 30))
    assert unbound is not None
    assert bound is not None
    assert unbound - bound >= RESUMED_BYTES // 4


def test_linear_maps_take_the_activations_they_are_fitted_to_and_their_sums(model: LanguageModel) -> None:
    tokens, width = 1 << 12, model.skeleton.hidden_size
    plain, maps = (PruneDepth(blocks=1, replace=kind).memory_bytes(model, tokens, None) for kind in ("none", "linear"))
    assert plain is not None
    assert maps is not None
    assert maps - plain >= 2 * model.hidden_bytes(tokens) + 2 * 8 * width**2


def takes(pass_: TrainingPass, model: LanguageModel) -> int:
    result = pass_.memory_bytes(model, 256, None)
    assert result is not None
    return result


def test_parts_are_foretold_where_a_launcher_says_of_how_many_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LanguageModel(write_folder(tmp_path, hidden_size=256, intermediate_size=512, num_hidden_layers=12))
    whole, parts = Finetune(batch_size=1), Finetune(batch_size=1, sharded=True)
    assert takes(parts, model) == takes(whole, model)  # started alone, it is the ordinary training
    launch = {"RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in launch.items():
        monkeypatch.setenv(name, value)
    for processes in (2, 4):
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        assert takes(parts, model) < takes(whole, model)
        assert takes(Distill(batch_size=1, sharded=True), model) < takes(Distill(batch_size=1), model)
        assert takes(parts, model) > takes(whole, model) - 16 * model.parameters() * (processes - 1) / processes
        assert whole.saving(model, 256, takes(parts, model)) == "sharded: true"
