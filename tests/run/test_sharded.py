"""Trainings whose weights, gradients and optimizer state lie in parts, one per process: torch's FSDP2."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from language_world import write_folder
from safetensors.torch import load_file, save_file
from test_several_processes import assert_facts, facts
from text_world import write_text_world
from tiny import write_npz
from together import Together, alone, wait_for
from training_world import (
    distance,
    script,
    script_in_small_parts,
    script_that_counts,
    script_that_looks_around,
    script_with_its_own_group,
    weights_of,
    world,
)

from squeeze.algorithms.units import multiplies
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Pass
from squeeze.passes.distill.distill import Distill
from squeeze.passes.distill.finetune import Finetune
from squeeze.passes.distill.training import TrainingPass
from squeeze.passes.quantize.rtn import Rtn

SHARED: dict[str, Any] = {
    "sharded": True,
    "epochs": 2,
    "batch_size": 6,
    "learning_rate": 1e-3,
    "products": "float32",
}  # of 20 sequences: the last batch has two
FAST: dict[str, Any] = {"learning_rate": 0.01}
FINETUNE = Finetune(**SHARED)
IMAGES = 41  # the last batch has one
WITH_NORMS = Finetune(sharded=True, epochs=2, batch_size=8, learning_rate=0.01, augment=("flip", "crop"))
FEATURES = Distill(sharded=True, epochs=2, batch_size=8, learning_rate=1e-3, features={"0": "0", "7": "8"})
LANGUAGE: dict[str, TrainingPass] = {
    "finetune": FINETUNE,
    "distill": Distill(**SHARED, alpha=0.5, features=("model.layers.*",)),
    "distill, cached": Distill(**SHARED, cached=8),
    "lora, recompute": Finetune(**SHARED | FAST, train="lora", rank=4, recompute=True),
    "last blocks, held out": Finetune(**SHARED, train="last_blocks", blocks=1, held_out=0.2, evaluate_every=2),
    "norms, sgd": Finetune(**SHARED | FAST, train="norms", optimizer="sgd"),
    "bfloat16": Finetune(**SHARED | {"products": "bfloat16"}),
}
ON_GRID = {"adapter": Distill(**SHARED, quantized="adapter", rank=4), "scales": Distill(**SHARED, quantized="scales")}
FAMILIES: dict[str, dict[str, Any]] = {
    "tied embeddings": {"tie_word_embeddings": True},
    "experts": {"family": "Mixtral", "num_local_experts": 4},
}
LONG = Finetune(sharded=True, epochs=100_000, batch_size=6, learning_rate=1e-5)


@pytest.mark.parametrize("pass_", LANGUAGE.values(), ids=LANGUAGE)
def test_a_language_model_in_two_parts_is_trained_as_in_one_process(tmp_path: Path, pass_: TrainingPass) -> None:
    write_folder(tmp_path / "language")
    assert_same(tmp_path, pass_)
    assert_facts(tmp_path, "one", "several", 2, apart(pass_))


@pytest.mark.parametrize("changes", FAMILIES.values(), ids=FAMILIES)
def test_what_blocks_share_and_what_few_rows_reach_is_trained_as_in_one_process(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    write_folder(tmp_path / "language", **changes)
    assert_same(tmp_path, FINETUNE)


def test_three_processes_train_on_a_batch_of_two_rows(tmp_path: Path) -> None:
    """One of them computes a row of weight 0; shapes that three does not divide leave parts of other sizes."""
    write_folder(tmp_path / "language")
    assert_same(tmp_path, FINETUNE, processes=3)


def test_processes_with_fewer_rows_go_through_the_module_as_often_as_others(tmp_path: Path) -> None:
    """Of the last batch's five rows, three and two: twice two at a time, and once two."""
    write_folder(tmp_path / "language")
    pass_ = FINETUNE.model_copy(update={"batch_size": 5, "held_out": 0.25, "train": "lora"})
    assert_same(tmp_path, pass_, function=script_in_small_parts)


@pytest.mark.parametrize("pass_", ON_GRID.values(), ids=ON_GRID)
def test_a_quantized_model_is_trained_in_parts(tmp_path: Path, pass_: Distill) -> None:
    write_folder(tmp_path / "language")
    assert_same(tmp_path, pass_, before=[Rtn(bits=4, group_size=32)])
    assert_facts(tmp_path, "one", "several", 2)
    assert pass_.quantized == "adapter" or facts(tmp_path, "several")[0]["grid"]["moved"]["scales"][0] > 0


@pytest.mark.parametrize("pass_", [WITH_NORMS, FEATURES], ids=["finetune", "distill"])
def test_a_network_with_batch_norm_is_trained_in_parts_as_in_one_process(images: Path, pass_: TrainingPass) -> None:
    assert_same(images, pass_, model="with_batch_norm")
    assert_facts(images, "one", "several", 2)


def test_a_text_classifier_is_trained_in_parts_as_in_one_process(tmp_path: Path) -> None:
    """By sgd: biases of keys have no gradient but rounding, which AdamW makes as large as others."""
    write_text_world(tmp_path, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    about: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.01, "products": "float32", "held_out": 0.2}
    pass_ = Finetune(sharded=True, steps=6, batch_size=6, **about)
    assert_same(tmp_path, pass_, model="bert")
    assert_facts(tmp_path, "one", "several", 2)


def test_weights_that_few_rows_reach_or_none_are_trained_as_in_one_process(images: Path) -> None:
    """What no row of a batch reaches does not move, whatever the decay; what one process alone reaches, does in all."""
    pass_ = Finetune(**SHARED | FAST | {"batch_size": 4}, optimizer="adamw", weight_decay=0.5)
    assert_same(images, pass_, model="Branching")
    started, ended = (load_file(images / f"{name}.safetensors") for name in ("original", "several"))
    assert torch.equal(started["none.weight"], ended["none.weight"])
    assert not torch.equal(started["bright.weight"], ended["bright.weight"])


def test_a_killed_training_goes_on_in_one_process(tmp_path: Path) -> None:
    write_folder(tmp_path / "language")
    pass_ = FINETUNE.model_copy(update={"epochs": 40, "learning_rate": 1e-4})
    assert run(tmp_path, 1, "undisturbed", pass_) == [0]
    together = Together(tmp_path, script, (tmp_path, "kept", pass_, "language")).start()
    wait_for(tmp_path / "kept" / "journals", "*/training.safetensors")
    together.started[0].kill()
    assert together.codes() == [-signal.SIGKILL, 1]
    assert run(tmp_path, 1, "kept-again", pass_) == [0]
    assert distance(tmp_path, "undisturbed", "kept-again") < 1e-5


def test_each_process_holds_half_of_weights_gradients_and_optimizer_state(tmp_path: Path) -> None:
    model = LanguageModel(write_folder(tmp_path / "language"))
    together = Together(tmp_path, script_that_counts, (tmp_path, "two", FINETUNE, "language")).start()
    assert together.codes() == [0, 0]
    every = [json.loads((tmp_path / f"held-{rank}.json").read_text()) for rank in range(2)]
    for of, values in (("weights", 1), ("gradients", 1), ("state", 2)):
        counts = [held[of] for held in every]
        assert sum(counts) == values * model.parameters()
        assert max(counts) <= 0.51 * values * model.parameters()


@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 3), (1, 2)])
def test_a_checkpoint_in_parts_goes_on_with_any_number_of_processes(tmp_path: Path, before: int, after: int) -> None:
    write_folder(tmp_path / "language")
    pass_ = FINETUNE.model_copy(update={"held_out": 0.2, "evaluate_every": 2, "patience": 99})
    assert run(tmp_path, 1, "undisturbed", pass_) == [0]
    assert run(tmp_path, before, "kept", pass_, 5)[0] == 1
    assert run(tmp_path, after, "kept-again", pass_) == [0] * after
    assert distance(tmp_path, "undisturbed", "kept-again") < 1e-5
    assert_facts(tmp_path, "undisturbed", "kept-again", after if after > 1 else None)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_training_of_all(tmp_path: Path, rank: int) -> None:
    write_folder(tmp_path / "language")
    pass_ = LONG.model_copy(update={"held_out": 0.2, "patience": 100_000})
    together = Together(tmp_path, script, (tmp_path, "killed", pass_, "language")).start()
    wait_for(tmp_path / "killed" / "journals", "*/training.safetensors")
    together.started[rank].kill()
    codes = together.codes()
    assert (codes[rank], codes[1 - rank]) == (-signal.SIGKILL, 1)
    line = ["finetune: a process that helps was killed, or does not answer", "process 1 of 2: 127.0.0.1:"][rank == 0]
    assert line in together.printed(1 - rank)[-1]


def test_an_error_of_a_helper_is_said_once_by_process_0(images: Path) -> None:
    together = Together(images, script, (images, "failed", WITH_NORMS, "Failing")).start()
    assert together.codes() == [1, 1]
    assert together.printed(0)[-1].endswith("RunFailed: finetune: process 1 of 2: on purpose")
    assert not together.printed(1)


def test_a_script_with_a_process_group_of_its_own_is_one_clear_line(tmp_path: Path) -> None:
    write_folder(tmp_path / "language")
    together = Together(tmp_path, script_with_its_own_group, (tmp_path, "own", FINETUNE, "language")).start()
    assert together.codes() == [1, 1]
    line = "finetune: sharded: this script has a default process group, and torch's FSDP2 needs one of these processes"
    assert line in together.printed(0)[-1]
    assert not together.printed(1)


def test_two_trainings_follow_each_other_and_leave_nothing_behind(tmp_path: Path) -> None:
    write_folder(tmp_path / "language")
    assert_same(tmp_path, Distill(**SHARED), before=[FINETUNE], function=script_that_looks_around)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_npz(tmp_path / "train.npz", IMAGES)
    return tmp_path


def run(folder: Path, processes: int, *arguments: Any, model: str = "language", function: Any = script) -> list[Any]:
    """Exit codes of a script in one process, or in several."""
    name, pass_, *rest = arguments
    about = (folder, name, pass_, model, *rest)
    if processes == 1:
        return [alone(folder, function, *about)]
    return Together(folder, function, about, processes).start().codes()


def apart(pass_: TrainingPass) -> float:
    """How far another order of sums may lead: a CPU that rounds factors rounds some the other way."""
    return 2e-4 if pass_.products == "bfloat16" and multiplies(torch.bfloat16) else 1e-5


def assert_same(
    folder: Path,
    pass_: TrainingPass,
    processes: int = 2,
    model: str = "language",
    before: Sequence[Pass] = (),
    function: Any = script,
) -> None:
    """One process and several come to the same weights, which are others than those that they began with."""
    about: dict[str, Any] = {"model": model, "function": function}
    assert run(folder, 1, "one", pass_, None, before, **about) == [0]
    assert run(folder, processes, "several", pass_, None, before, **about) == [0] * processes
    assert distance(folder, "one", "several") < apart(pass_)
    save_file(weights_of(world(folder, model)[0]), folder / "original.safetensors")
    assert distance(folder, "one", "original") > 1e-3
