"""The axes from outside: what another package registers is used without an edit in Squeeze."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from package_script import run_script, unpacked
from safetensors.torch import save_file
from tiny import PLAN as TINY_PLAN
from tiny import faults, squeeze, write_npz, write_plan, write_world

from squeeze import registry
from squeeze.errors import ModelError, UsageError
from squeeze.models.artifact import Artifact
from squeeze.models.tasks.base import task_named
from squeeze.targets.script import script

PACKAGE = '''\
"""A task that nobody has here: to rate a picture by one number; and how far off ratings are."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from squeeze import Batch, ExampleMetric, Task
from squeeze.evaluate.evidence.outputs import Logits


class Rate(Task):
    """One number per example; a label is the right number."""
    name, models, metrics, learns = "rate", "raters", ("off", "size_bytes"), True
    def golden(self, model):
        return Batch({"image": torch.zeros(1, *model.inputs[0].shape)})
    def targets(self, batch):
        return batch.labels
    def loss(self, predictions, targets):
        return functional.mse_loss(predictions[:, 0], targets.float())
    def teaching_loss(self, student, teacher, targets, temperature, alpha):
        return functional.mse_loss(student, teacher)

class Off(ExampleMetric):
    """How far a rating is from the label."""
    name, unit, needs_labels, evidence = "off", "nats", True, Logits
    def per_example(self, logits, labels, original):
        return np.abs(logits[:, 0] - labels)

class Network(nn.Sequential):
    task = "rate"

def network():
    return Network(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1))
'''
ENTRY_POINTS = """\
[squeeze.tasks]
rate = rating:Rate
generate = rating:Rate
broken = rating_gone:Nothing
[squeeze.metrics]
off = rating:Off
"""
PLAN = """\
model: {module: "rating:network", weights: rating.safetensors}
data: {train: {npz: train.npz}, evaluate: {npz: evaluate.npz}}
metrics: [off]
passes:
  - {pass: finetune, epochs: 20, batch_size: 4, learning_rate: 0.1}
  - {pass: distill, epochs: 1, batch_size: 4}
"""


def install(site: Path, name: str, code: str, entry_points: str) -> None:
    """A package as pip would leave it."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (site / f"{name}.py").write_text(code)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package as pip would leave it, on the path for one test, and a world for its plan."""
    install(tmp_path / "site", "rating", PACKAGE, ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path / "site")
    registry.entries.cache_clear()
    task_named.cache_clear()
    save_file({"2.weight": torch.zeros(1, 3), "2.bias": torch.full((1,), 9.0)}, tmp_path / "rating.safetensors")
    for name, seed in (("train", 1), ("evaluate", 2)):
        write_npz(tmp_path / f"{name}.npz", seed=seed)
    (tmp_path / "plan.yaml").write_text(PLAN)
    yield tmp_path
    sys.modules.pop("rating", None)
    registry.entries.cache_clear()
    task_named.cache_clear()


def test_a_task_and_its_metric_of_another_package_serve_a_plan(installed: Path) -> None:
    """Labels of 0 to 3, and a first rating of 9: training by the task's own loss comes nearer."""
    assert faults(installed / "plan.yaml") == []
    assert squeeze("run", installed / "plan.yaml", "--out", installed / "out", "--store", installed / "store") == 0
    rows = json.loads((installed / "out" / "report.json").read_text())["ledger"]["rows"]
    first, tuned, taught = (row["scores"]["off"]["value"] for row in rows)
    assert first > 7
    assert tuned < 3
    assert taught > tuned  # by the original
    assert rows[1]["options"]["optimizer"] == "sgd"  # as the task has it for pictures


@pytest.mark.usefixtures("installed")
def test_the_name_of_a_builtin_task_cannot_be_taken_over() -> None:
    assert type(task_named("generate")).__module__ == "squeeze.models.tasks.generate"
    assert type(task_named("rate")).__module__ == "rating"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("broken", "1: the module's task: task 'broken': rating_gone:Nothing: cannot import 'rating_gone'"),
        ("rat", "1: the module's task is 'rat'; 'classify' or 'embed' would do"),
        ("generate", "1: the module's task is 'generate'; 'classify' or 'embed' would do"),
    ],
)
def test_a_task_that_cannot_be_used_is_a_fault_of_the_plan(installed: Path, task: str, message: str) -> None:
    module = installed / "site/rating.py"
    module.write_text(PACKAGE.replace('task = "rate"', f'task = "{task}"'))
    assert faults(installed / "plan.yaml")[0].startswith(message)


TABLING = '''\
"""Models as one .npz file of their classes' mean outputs, run by numpy."""

from pathlib import Path
from typing import Any

import numpy as np

from squeeze import ModelError, OnnxModel, Opened, Runtime, Target, Writer
from squeeze.formats.tensor_spec import TensorSpec


class OpenedTable(Opened):
    def __init__(self, file: Path, where: str) -> None:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                self.weight = arrays["weight"]
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{where}: no table of weights ({error})") from None
        self.inputs = (TensorSpec(name="image", shape=("n", 3, 6, 6), dtype="float32"),)
        self.outputs = (TensorSpec(name="logits", shape=("n", self.weight.shape[1]), dtype="float32"),)

    def run(self, feed):
        return [feed["image"].reshape(len(feed["image"]), -1) @ self.weight]


class TableScript:
    """The table in numpy."""

    def __init__(self, file: Path, threads: int) -> None:
        import numpy as np

        self.weight = np.load(file, allow_pickle=False)["weight"]

    def run(self, feed: dict[str, Any]) -> Any:
        """All outputs, in their order."""
        return [feed["image"].reshape(len(feed["image"]), -1) @ self.weight]


class Table(Runtime):
    """numpy."""

    name = "table"
    distribution = "numpy"
    modules = ("numpy",)
    loads = {"predict": (".npz",)}
    beside = (".npz",)
    script = {"predict": (TableScript,)}

    @classmethod
    def open(cls, file: Path, threads: int, where: str) -> OpenedTable:
        return OpenedTable(file, where)


class TableWriter(Writer[OnnxModel]):
    """What the model answers to each pixel alone."""

    name = "table"

    def holds(self, kind):
        return "a table holds no grid; exclude all would do"

    def write(self, model: OnnxModel, folder: Path) -> Path:
        pixels = np.eye(108, dtype=np.float32).reshape(-1, 3, 6, 6)
        session = model.session(1)
        np.savez(folder / "model.npz", weight=session.run(None, {session.get_inputs()[0].name: pixels})[0])
        return folder / "model.npz"


class Tables(Target[OnnxModel]):
    """A package with a table."""

    name = "tables"

    def writer(self) -> TableWriter:
        return TableWriter()

    @property
    def runs_in(self) -> str:
        return "table"
'''
TABLING_POINTS = """\
[squeeze.runtimes]
table = tabling:Table
onnxruntime = tabling:Table
[squeeze.writers]
table = tabling:TableWriter
[squeeze.targets]
tables = tabling:Tables
"""
TABLED = TINY_PLAN.replace('  - pass: "tiny:Scale"\n    factor: 2.0\n', "  - pass: export_onnx\n")


@pytest.fixture
def tabling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Another package on the path for one test, and a world."""
    install(tmp_path / "site", "tabling", TABLING, TABLING_POINTS)
    monkeypatch.syspath_prepend(tmp_path / "site")
    registry.entries.cache_clear()
    yield write_world(tmp_path)
    sys.modules.pop("tabling", None)
    registry.entries.cache_clear()


def test_a_runtime_and_a_writer_of_another_package_go_from_a_plan_to_a_script(
    tabling: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = write_plan(tabling, TABLED + "targets: [{target: tables}]\n")
    assert faults(plan) == []
    assert squeeze("run", plan, "--out", tabling / "out", "--store", tabling / "store") == 0
    (package,) = (tabling / "out").glob("*.zip")
    capsys.readouterr()
    assert squeeze("bench", package, "--batch", "2", "--seconds", "0.1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["batches"][0]["batch"] == 2
    folder = unpacked(package, tabling / "unpacked")
    np.save(tabling / "x.npy", np.ones((3, 6, 6), np.float32))
    done = run_script(folder, tabling / "x.npy", "--json")
    assert done.returncode == 0, done.stderr
    weight = np.load(folder / "model.npz")["weight"]
    assert json.loads(done.stdout)["examples"][0][0]["class"] == int(weight.sum(0).argmax())


@pytest.mark.usefixtures("tabling")
def test_a_built_in_runtime_cannot_be_taken_over_and_a_writer_says_what_it_holds() -> None:
    assert registry.load("runtimes", "onnxruntime").__module__ == "squeeze.runtimes.ort"
    assert registry.load("runtimes", "table").__module__ == "tabling"
    assert registry.load("writers", "table").__module__ == "tabling"


@pytest.mark.usefixtures("tabling")
def test_a_runtime_without_a_script_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.load("runtimes", "table"), "script", {})
    with pytest.raises(UsageError, match=r"runtime 'table': its script has no classes that predict; Runtime\.script"):
        script("predict", "table", "classes")


@pytest.mark.usefixtures("tabling")
def test_a_table_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.npz").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match=r"model\.npz: no table of weights"):
        Artifact(tmp_path / "model.npz", runtime="table")
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match=r"table loads no '\.onnx' files; \.npz would do"):
        Artifact(tmp_path / "model.onnx", runtime="table")
    with pytest.raises(UsageError, match="unknown runtime 'tabel'; did you mean 'table'"):
        Artifact(tmp_path / "model.npz", runtime="tabel")
