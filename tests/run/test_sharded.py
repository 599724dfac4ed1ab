"""Trainings whose weights, gradients and optimizer state lie in parts, one per process: torch's FSDP2."""

from __future__ import annotations

from pathlib import Path

import pytest
from language_world import write_folder
from test_several_processes import assert_facts
from tiny import write_npz
from together import Together, alone
from training_world import distance, network, script, weights_of

from squeeze.passes.distill.distill import Distill
from squeeze.passes.distill.finetune import Finetune
from squeeze.passes.distill.training import TrainingPass

SHARED = {"sharded": True, "epochs": 2, "batch_size": 6, "learning_rate": 1e-3, "products": "float32"}
LANGUAGE: dict[str, TrainingPass] = {
    "finetune": Finetune(**SHARED),
    "distill": Distill(**SHARED, alpha=0.5),
    "lora": Distill(**SHARED, train="lora", rank=4, recompute=True),
    "last blocks, held out": Finetune(**SHARED, train="last_blocks", blocks=1, held_out=0.2, evaluate_every=2),
    "sgd": Finetune(**SHARED, train="norms", optimizer="sgd"),
}


@pytest.mark.parametrize("pass_", LANGUAGE.values(), ids=LANGUAGE)
def test_a_language_model_in_two_parts_is_trained_as_in_one_process(tmp_path: Path, pass_: TrainingPass) -> None:
    write_folder(tmp_path / "language")
    assert alone(tmp_path, script, tmp_path, "one", pass_, "language") == 0
    together = Together(tmp_path, script, (tmp_path, "two", pass_, "language")).start()
    assert together.codes() == [0, 0], [together.printed(0), together.printed(1)]
    assert distance(tmp_path, "one", "two") < 1e-5
    assert_facts(tmp_path, "one", "two", 2)
