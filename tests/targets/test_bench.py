"""``bench`` measures what it says, on packages and on bare models."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import onnx
import pytest
from tiny import squeeze

from squeeze.errors import UsageError, VerifyError
from squeeze.progress import Progress
from squeeze.targets.base import Packed
from squeeze.targets.bench import TURNS, Load, bench, in_turns
from squeeze.targets.confined import Limits
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


def test_packages_take_turns_and_stand_side_by_side(packed: Packed, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--batch", "2", "--seconds", "0.02"]
    assert squeeze("bench", packed.path, packed.path, *options, "--json") == 0
    found = json.loads(capsys.readouterr().out)["packages"]
    assert [one["package"] for one in found] == [str(packed.path)] * 2
    for one in found:
        assert len(one["turns"]) == TURNS
        assert {row["batch"] for turn in one["turns"] for row in turn["batches"]} == {2}
    assert squeeze("bench", packed.path, packed.path, *options) == 0
    shown = capsys.readouterr().out
    assert f"medians of {TURNS} turns, 1 thread(s)" in shown
    assert [line for line in shown.splitlines() if packed.path.name in line] == [
        f"1: {packed.path}",
        f"2: {packed.path}",
    ]


def test_packages_that_do_different_things_are_not_compared(packed: Packed) -> None:
    package = open_package(packed.path)
    other = replace(package, manifest=package.manifest.model_copy(update={"task": "generate"}))
    with pytest.raises(UsageError, match=r"tiny-cpu\.zip \(predict\), tiny-cpu\.zip \(generate\); packages that do"):
        in_turns([package, other], 1, Load(), Limits(), Progress())
