"""The axes from outside: what another package registers is used without an edit in Squeeze."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import faults, squeeze, write_npz

from squeeze import registry
from squeeze.models.tasks.base import task_named

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


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package as pip would leave it, on the path for one test, and a world for its plan."""
    site, info = tmp_path / "site", tmp_path / "site" / "rating-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "rating.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rating\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(site)
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
    ("task", "said"),
    [
        ("broken", "1: the module's task: task 'broken': rating_gone:Nothing: cannot import 'rating_gone'"),
        ("rat", "1: the module's task is 'rat'; 'classify' or 'embed' would do"),
        ("generate", "1: the module's task is 'generate'; 'classify' or 'embed' would do"),
    ],
)
def test_a_task_that_cannot_be_used_is_a_fault_of_the_plan(installed: Path, task: str, said: str) -> None:
    module = installed / "site/rating.py"
    module.write_text(PACKAGE.replace('task = "rate"', f'task = "{task}"'))
    assert faults(installed / "plan.yaml")[0].startswith(said)
