"""``bench`` measures what it says, on packages and on bare models."""

from __future__ import annotations

import json
from collections.abc import Callable

import onnx
import pytest

from squeeze.errors import VerifyError
from squeeze.targets.base import Packed
from squeeze.targets.bench import Load, bench
from squeeze.targets.host import host
from squeeze.targets.verify import open_package


def test_a_package_is_measured_with_load_time_and_memory(packed: Packed):
    result = bench(open_package(packed.path), load=Load((1, 6), 0.02))
    assert json.loads(json.dumps(result)) == result
    assert result["package_bytes"] == packed.path.stat().st_size
    assert result["model_bytes"] == packed.artifact.nbytes()
    assert result["load_ms"] > 0
    assert 10e6 < result["peak_rss_bytes"] < 400e6  # a process without torch
    assert [row["batch"] for row in result["batches"]] == [1, 6]
    for row in result["batches"]:
        assert row["p10_ms"] <= row["median_ms"] <= row["p90_ms"]
        assert row["runs"] >= 10
        assert row["examples_per_s"] == pytest.approx(1000 * row["batch"] / row["median_ms"])


def test_a_batch_that_does_not_fit_is_one_line(packed: Packed, tiny_onnx: Callable[..., onnx.ModelProto]):
    """The manifest says any number of examples, the model takes four."""
    package = open_package(packed.path)
    (package.folder / "model.onnx").write_bytes(tiny_onnx(batch=4).SerializeToString())
    with pytest.raises(VerifyError, match=r"tiny-cpu\.zip: batch of 2: the model refuses it"):
        bench(package, load=Load((2,), 0.01))


def test_the_host_says_what_timings_depend_on():
    facts = {"processor", "cores", "usable_cores", "system", "python", "onnxruntime", "int8_products"}
    assert facts == set(host())
