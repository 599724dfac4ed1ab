"""Trainings of several processes, as torchrun starts them: the steps of one process, and no end in silence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from language_world import write_folder
from safetensors.torch import save_file
from tiny import squeeze, write_npz
from together import Together, alone, main_that_lists, main_with_little_patience, wait_for
from training_world import distance, network, script, weights_of

from squeeze.errors import UsageError
from squeeze.passes.distill.distill import Distill
from squeeze.passes.distill.finetune import Finetune
from squeeze.passes.distill.training import TrainingPass
from squeeze.training.launch import launched
from squeeze.training.peers import bounds

IMAGES = 41  # five batches of 8, and a last one of a single example
FINETUNE = Finetune(epochs=3, batch_size=8, learning_rate=0.01, augment=("flip", "crop"))
ADAMW = Finetune(epochs=3, batch_size=8, learning_rate=1e-3, optimizer="adamw", held_out=0.2, evaluate_every=2)
DISTILL = Distill(epochs=3, batch_size=8, learning_rate=1e-3, temperature=1.0, features=("0", "3"))
PROJECTED = Distill(epochs=3, batch_size=8, learning_rate=1e-3, features={"0": "0", "7": "8"})  # 8 against CLASSES
SKEWED = Distill(
    epochs=2, batch_size=6, learning_rate=1e-3, train="lora", rank=4, alpha=0.5, divergence="skewed", products="float32"
)
LONG = Finetune(epochs=100_000, batch_size=8, learning_rate=0.01)
PLAN = """
model: {module: "training_world:with_dropout", weights: original.safetensors, input: [3, 6, 6]}
threads: 1
data:
  train: {npz: train.npz}
metrics: []
passes:
  - {pass: finetune, epochs: 1, batch_size: 8}
"""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_npz(tmp_path / "train.npz", IMAGES)
    return tmp_path


@pytest.fixture
def plan(images: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_file(weights_of(network("with_dropout")), images / "original.safetensors")
    (images / "plan.yaml").write_text(PLAN)
    monkeypatch.chdir(images)
    return images / "plan.yaml"


@pytest.mark.parametrize(
    ("pass_", "processes"),
    [(FINETUNE, 2), (ADAMW, 3), (DISTILL, 2), (PROJECTED, 2)],
    ids=["finetune", "adamw", "distill", "features of another width"],
)
def test_several_processes_equal_one_with_the_whole_batch(images: Path, pass_: TrainingPass, processes: int) -> None:
    """Weights, batch norm's statistics, losses and all else that the row says, up to the order of sums."""
    assert alone(images, script, images, "one", pass_, "with_batch_norm") == 0
    together = Together(images, script, (images, "several", pass_, "with_batch_norm"), processes).start()
    assert together.codes() == [0] * processes
    save_file(weights_of(network("with_batch_norm")), images / "before.safetensors")
    assert distance(images, "one", "before") > 1e-3
    assert distance(images, "one", "several") < 1e-5
    assert_facts(images, "one", "several", processes)
    assert not any(together.printed(rank) for rank in range(processes))


def test_a_language_model_is_trained_by_two_processes_from_disk_as_by_one_in_memory(tmp_path: Path) -> None:
    write_folder(tmp_path / "language")
    assert alone(tmp_path, script, tmp_path, "one", SKEWED, "language") == 0
    pass_ = SKEWED.model_copy(update={"frozen": "disk"})
    assert Together(tmp_path, script, (tmp_path, "two", pass_, "language")).start().codes() == [0, 0]
    assert distance(tmp_path, "one", "two") < 1e-4
    assert_facts(tmp_path, "one", "two", 2)


@pytest.mark.parametrize("stopped_with", [1, 2])
def test_a_checkpoint_goes_on_with_any_number_of_processes(images: Path, stopped_with: int) -> None:
    about = (FINETUNE, "with_batch_norm")
    assert alone(images, script, images, "undisturbed", *about) == 0
    if stopped_with == 1:
        assert alone(images, script, images, "kept", *about, 8) == 1
        assert Together(images, script, (images, "kept-two", *about)).start().codes() == [0, 0]
        assert distance(images, "undisturbed", "kept-two") < 1e-5
    else:
        assert Together(images, script, (images, "kept", *about, 8)).start().codes() == [1, 0]
        assert alone(images, script, images, "kept-one", *about) == 0
        assert distance(images, "undisturbed", "kept-one") < 1e-5


@pytest.mark.parametrize(
    "about", [(FINETUNE, "with_dropout"), (PROJECTED, "with_batch_norm")], ids=["dropout", "features of another width"]
)
def test_two_processes_stopped_inside_an_epoch_end_with_the_same_bytes(
    images: Path, about: tuple[TrainingPass, str]
) -> None:
    assert Together(images, script, (images, "undisturbed", *about)).start().codes() == [0, 0]
    assert Together(images, script, (images, "kept", *about, 8)).start().codes() == [1, 0]
    assert Together(images, script, (images, "kept-again", *about)).start().codes() == [0, 0]
    assert distance(images, "undisturbed", "kept-again") == 0


def test_what_the_store_has_nobody_trains_again(images: Path) -> None:
    about = (FINETUNE, "with_dropout")
    assert alone(images, script, images, "kept", *about) == 0
    assert Together(images, script, (images, "kept-two", *about)).start().codes() == [0, 0]
    assert distance(images, "kept", "kept-two") == 0
    assert facts(images, "kept-two")[1] is None  # trained by one process


def test_an_error_of_a_helper_is_said_once_by_process_0(images: Path) -> None:
    together = Together(images, script, (images, "failed", FINETUNE, "Failing")).start()
    assert together.codes() == [1, 1]
    assert together.printed(0)[-1].endswith("RunFailed: finetune: process 1 of 2: on purpose")
    assert not together.printed(1)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_training_of_all(images: Path, rank: int) -> None:
    together = Together(images, script, (images, "killed", LONG, "with_dropout")).start()
    wait_for(images / "killed" / "journals", "*/training.safetensors")
    together.started[rank].kill()
    assert together.codes()[rank] == -signal.SIGKILL
    assert together.codes()[1 - rank] == 1
    line = ["finetune: a process that helps was killed, or does not answer", "process 1 of 2: 127.0.0.1:"][rank == 0]
    assert line in together.printed(1 - rank)[-1]


def test_weights_that_drift_apart_are_an_error_that_names_them(images: Path) -> None:
    together = Together(images, script, (images, "apart", FINETUNE, "with_statistics")).start()
    assert together.codes() == [1, 0]
    assert "finetune: '1.running_mean' of process 1 is no longer that of process 0" in together.printed(0)[-1]


def test_torchrun_carries_a_plan_out_and_process_0_alone_speaks(plan: Path) -> None:
    """A training with whole weights, then one in parts."""
    plan.write_text(f"{PLAN}  - {{pass: finetune, epochs: 1, batch_size: 8, sharded: true}}\n")
    environment = os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))}
    call = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "squeeze.cli"]
    call += ["run", "plan.yaml", "--out", "out", "--store", "store"]
    done = subprocess.run(call, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("finetune: epoch 1 of 1") == 2
    assert done.stdout.count("Report: out/report.html") == 1
    rows = json.loads((plan.parent / "out" / "report.json").read_text())["ledger"]["rows"]
    assert [row["measured"].get("processes") for row in rows] == [None, 2, 2]


def test_a_plan_that_trains_nothing_is_warned_of_and_ends_for_all(plan: Path) -> None:
    plan.write_text(PLAN.replace("pass: finetune, epochs: 1, batch_size: 8", "pass: rtn, bits: 8, group_size: null"))
    together = Together(plan.parent, main_with_little_patience, ["run", plan, "--store", plan.parent / "store"]).start()
    assert together.codes() == [0, 0]
    line = "warning: 2 processes were started, and no pass of the plan trains: process 0 works alone"
    assert line in together.printed(0)
    assert not together.printed(1)


def test_a_batch_smaller_than_the_number_of_processes_is_a_fault_of_the_plan(plan: Path) -> None:
    plan.write_text(PLAN.replace("batch_size: 8", "batch_size: 2"))
    together = Together(plan.parent, main_with_little_patience, ["run", plan, "--store", plan.parent / "s"], 3)
    assert together.start(0).codes() == [2]
    fault = "finetune: batch_size 2 is the whole batch, and 3 processes share it; 3 or more would do"
    assert together.printed(0) == [f"{plan}:8: {fault}"]


@pytest.mark.parametrize(
    ("rank", "line"),
    [
        (0, "1 of 2 processes came to 127.0.0.1:{port} in 2 s; the same torchrun command on every node would start"),
        (1, "process 1 of 2: nobody answered at 127.0.0.1:{port} in 2 s; process 0 has to run there"),
    ],
)
def test_a_process_that_waits_in_vain_ends_with_one_line(plan: Path, rank: int, line: str) -> None:
    together = Together(plan.parent, main_with_little_patience, ["run", plan, "--store", plan.parent / "s"])
    assert together.start(rank).codes() == [1]
    (printed,) = together.printed(rank)
    assert printed.startswith(line.format(port=together.port))


@pytest.mark.parametrize("sharded", [False, True])
def test_a_run_without_a_launcher_loads_nothing_of_this(plan: Path, sharded: bool) -> None:
    plan.write_text(PLAN.replace("epochs: 1", f"epochs: 1, sharded: {str(sharded).lower()}"))
    assert alone(plan.parent, main_that_lists, "run", plan, "--store", plan.parent / "store") == 0
    assert (plan.parent / "printed-alone").read_text().splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE='two' is no number; torchrun sets it"),
        (
            {"RANK": "2", "WORLD_SIZE": "2", "MASTER_PORT": "1", "MASTER_ADDR": "a"},
            "RANK 2 of WORLD_SIZE 2 at MASTER",
        ),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "1"}, "MASTER_ADDR unset, MASTER_PORT 1: no processes were"),
    ],
)
def test_variables_that_no_launcher_sets_are_one_clear_line(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message):
        launched()
    assert squeeze("run", "plan.yaml") == 2
    assert message in capsys.readouterr().err


@given(st.integers(1, 200), st.integers(1, 17))
def test_every_row_is_of_one_process_and_process_0_has_as_many_as_any(rows: int, processes: int) -> None:
    shares = bounds(rows, processes)
    assert [row for low, high, weight in shares for row in range(low, high) if weight] == list(range(rows))
    sizes = [high - low for low, high, _ in shares]
    assert len(shares) == processes
    assert sizes[0] == max(sizes) <= min(sizes) + 1


def facts(folder: Path, name: str) -> tuple[dict[str, Any], int | None]:
    """What a row says, and how many processes it says it was trained by."""
    read, processes = json.loads((folder / f"{name}.json").read_text())
    return read, processes


def close(value: object, apart: float) -> object:
    """Losses to that share, and the last of the six places that they are rounded to; anything else as it is."""
    return pytest.approx(value, rel=apart, abs=1.5e-6) if isinstance(value, list) else value


def assert_facts(folder: Path, one: str, several: str, processes: int, apart: float = 1e-5) -> None:
    """Counts are equal and losses close; the number of processes stands where timings do."""
    expected, got = facts(folder, one)[0], facts(folder, several)[0]
    assert set(got) == set(expected)
    assert got == {name: close(value, apart) for name, value in expected.items()}
    assert facts(folder, several)[1] == processes
