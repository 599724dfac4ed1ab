"""``bench`` measures what it says, on packages and on bare models."""

from __future__ import annotations

import json

import pytest

from squeeze.errors import ModelError
from squeeze.models.base import InputSpec
from squeeze.models.onnx_model import OnnxModel
from squeeze.targets.base import Packed
from squeeze.targets.bench import bench
from squeeze.targets.host import host
from squeeze.targets.verify import open_package


def test_a_package_is_measured_with_load_time_and_memory(packed: Packed):
    found = bench(open_package(packed.path), batch_sizes=(1, 6), seconds=0.02)
    assert json.loads(json.dumps(found)) == found
    assert found["package_bytes"] == packed.path.stat().st_size
    assert found["model_bytes"] == packed.artifact.nbytes()
    assert found["load_ms"] > 0
    assert 10e6 < found["peak_rss_bytes"] < 400e6  # a process without torch
    assert [row["batch"] for row in found["batches"]] == [1, 6]
    for row in found["batches"]:
        assert row["p10_ms"] <= row["median_ms"] <= row["p90_ms"]
        assert row["runs"] >= 10
        assert row["examples_per_s"] == pytest.approx(1000 * row["batch"] / row["median_ms"])


def test_a_bare_model_is_measured_on_noise(model: OnnxModel):
    found = bench(model, batch_sizes=(2,), seconds=0.01)
    assert "package_bytes" not in found
    assert found["batches"][0]["batch"] == 2


def test_a_free_size_asks_for_a_package(model: OnnxModel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model, "inputs", (InputSpec("image", (3, -1, -1)),))
    with pytest.raises(ModelError, match="input 'image' has a free size besides the batch; bench a package"):
        bench(model)


def test_a_batch_that_does_not_fit_is_one_line(model: OnnxModel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model, "inputs", (InputSpec("image", (3, 8)),))
    with pytest.raises(ModelError, match="batch of 1: the model refuses it"):
        bench(model)


def test_the_host_says_what_timings_depend_on():
    facts = {"processor", "cores", "usable_cores", "system", "python", "onnxruntime", "int8_products"}
    assert facts == set(host())
