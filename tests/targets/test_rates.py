"""Measured speeds: tables read between their points, times summed over layers, and profiles made on this very host."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from language_world import write_folder
from tiny import faults, write_plan, write_world

from squeeze.api import load
from squeeze.cli import main
from squeeze.errors import UsageError
from squeeze.formats.operation import Operation, product
from squeeze.measure import formats
from squeeze.measure.formats import Point
from squeeze.models.base import FULLY
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.onnx_model import OnnxModel
from squeeze.plan.check import check
from squeeze.targets import devices, fit
from squeeze.targets.host_profile import as_yaml, measure_profile
from squeeze.targets.rates import Measured, Rates, Speeds

MEMORY = Speeds(sizes=(1e6, 1e9), per_s=(1e11, 1e10))
TABLE = Rates(channels=(4, 64), places=(10, 1000), macs_per_s=((1e9, 1e10), (4e9, None)))
MEASURED = Measured(
    source="a table of this test",
    threads=1,
    call_s=1e-6,
    rates={"matmul float": TABLE, "matmul int4": TABLE},
    elements={"light float": Speeds(sizes=(100, 1000), per_s=(1e8, 1e9))},
)
PLAN = """\
model: {module: "tiny:network", weights: tiny.safetensors}
data: {evaluate: {npz: evaluate.npz}}
metrics: [top1]
passes: [{pass: export_onnx}]
targets: [{target: cpu, device: ./host.yaml}]
"""


def few(name: str, threads: int) -> list[Point]:
    """One layer of each kind, the smallest."""
    first: dict[str, Point] = {}
    for point in formats.points(name, threads):
        first.setdefault(point.name, point)
    return list(first.values())


@pytest.fixture(scope="module")
def profile() -> dict[str, Any]:
    return measure_profile(1, 0.001, ["onnx"], points=few)


def test_a_table_is_read_between_its_points_and_no_further() -> None:
    assert TABLE.at(4, 10) == pytest.approx(1e9)
    assert TABLE.at(4, 100) == pytest.approx(10**9.5)
    assert TABLE.at(16, 10) == pytest.approx(2e9)  # halfway in logarithms
    assert TABLE.at(1, 1) == TABLE.at(4, 10)
    assert TABLE.at(999, 10) == pytest.approx(4e9)
    assert TABLE.at(64, 1000) == pytest.approx(4e9)  # not measured: as at fewer places


def test_a_product_waits_for_its_kernel_or_for_its_weights() -> None:
    kernel = MEASURED.seconds([product(10, 64, 64, "float", 0)], MEMORY)
    assert kernel == pytest.approx(1e-6 + 10 * 64 * 64 / 4e9)
    weights = MEASURED.seconds([product(1, 4, 4, "float", 10**9)], MEMORY)
    assert weights == pytest.approx(1e-6 + 10**9 / 1e10)


def test_weights_that_stay_in_a_cache_come_faster() -> None:
    one = product(1, 4, 4, "float", 10**6)
    together = MEASURED.seconds([one] * 1000, MEMORY)
    alone = MEASURED.seconds([one], MEMORY)
    assert together is not None
    assert alone is not None
    assert together - 1e-6 == pytest.approx(1000 * 10 * (alone - 1e-6), rel=1e-3)


def test_small_operators_cost_what_the_smallest_measured_costs() -> None:
    few_numbers, none = (MEASURED.seconds([Operation("light", "float", values=n)], MEMORY) for n in (50, 0))
    assert few_numbers == none == pytest.approx(2e-6)


def test_a_kind_that_was_not_measured_makes_the_time_unknown() -> None:
    assert MEASURED.seconds([Operation("norm", "float", values=50)], MEMORY) is None
    assert MEASURED.seconds([product(1, 4, 4, "int8", 0)], MEMORY) is None


def test_a_prediction_by_layers_is_their_sum_with_ends_a_factor_apart() -> None:
    whole = devices.load("pi5", Path.cwd()).model_copy(
        update={"measured": {"onnx": MEASURED}, "read_bytes_per_s": MEMORY}
    )
    run = (product(10, 64, 64, "float", 0),)
    demand = fit.Demand(100, 0, None, 2048, 40960, False, run, "onnx")
    least, most = demand.seconds(whole)
    summed = MEASURED.seconds(run, MEMORY)
    assert summed is not None
    assert most / least == pytest.approx(1.5)
    assert least * most == pytest.approx(summed**2)
    assert "predicted from its layers measured as onnx, not measured" in fit.line(demand, whole, "host")
    other = fit.Demand(100, 0, None, 2048, 40960, False, run, "litert")  # a format that was not measured
    assert other.seconds(whole) == fit.Demand(100, 0, None, 2048, 40960, False).seconds(whole)


def test_a_network_on_integers_runs_the_same_layers_as_int8(model: OnnxModel) -> None:
    macs = model.macs()
    demand = fit.demand_of(model, 1000, macs, True, 2048, 4, "onnx")
    before = model.operations()
    assert before is not None
    assert [one.kind for one in demand.operations] == [one.kind for one in before]
    assert {one.numbers for one in demand.operations if one.macs} == {"int8"}
    assert fit.multiplies_integers({FULLY}, model)
    assert not fit.multiplies_integers({"quantized"}, model)  # weights alone: they are multiplied as floats


def test_a_language_models_file_tells_what_is_multiplied_by_its_size(tmp_path: Path) -> None:
    """Half a byte and a scale for a weight: int4. Weights are read once for a token, the table of tokens is not."""
    model = LanguageModel(write_folder(tmp_path / "llama"))
    weights, macs = model.parameters(), model.macs()
    assert weights is not None
    for each, numbers in ((0.6, "int4"), (4.0, "float")):
        demand = fit.demand_of(model, round(each * weights), macs, False, 64, 4, "onnx")
        products = [one for one in demand.operations if one.kind == "matmul"]
        assert {one.numbers for one in products} == {numbers}
        read = sum(one.weight_bytes for one in products)
        assert read == pytest.approx(each * sum(one.macs for one in products), rel=0.01)
    attention = [one for one in demand.operations if one.kind == "attention"]
    assert {one.places for one in attention} == {32}  # a text half as long as the context


def test_no_layer_is_looked_at_for_a_device_that_was_not_measured(model: OnnxModel) -> None:
    assert devices.load("pi5", Path.cwd()).times("onnx") is None
    assert fit.demand_of(model, 1000, model.macs(), False, 2048, 4, None).operations == ()


def test_a_pruned_network_does_its_share_of_the_work(model: OnnxModel) -> None:
    macs = model.macs()
    assert macs is not None
    whole, half = (fit.demand_of(model, 1000, part, False, 2048, 4, "onnx") for part in (macs, macs // 2))
    work = [sum(one.macs for one in demand.operations) for demand in (whole, half)]
    assert work[0] == macs
    assert work[1] == pytest.approx(macs / 2, rel=0.01)


def test_a_profile_measured_here_is_one_that_a_plan_takes(tmp_path: Path, profile: dict[str, Any]) -> None:
    world = write_world(tmp_path)
    (world / "host.yaml").write_text(as_yaml(profile))
    checked = check(load(write_plan(world, PLAN)))
    assert not checked.faults
    (line,) = checked.fits
    assert "predicted from its layers measured as onnx, not measured" in line


def test_a_profile_is_shown_with_the_formats_that_were_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], profile: dict[str, Any]
) -> None:
    (tmp_path / "host.yaml").write_text(as_yaml(profile))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["devices", "./host.yaml"])
    assert ended.value.code == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("  layers as onnx, ")
    assert "kinds, threads 1: measured on this host by squeeze bench --profile, 20" in last


def test_a_profile_says_of_each_figure_who_measured_it(profile: dict[str, Any]) -> None:
    figures = [value for value in profile.values() if isinstance(value, dict) and "value" in value]
    assert len(figures) == 6
    for figure in figures:
        assert figure["source"].startswith("measured on this host by squeeze bench --profile, 20")
        assert figure["value"] > 0
    assert set(profile["measured"]["onnx"]["rates"]) >= {"conv int8", "depthwise float", "matmul int4", "dynamic int8"}


@pytest.mark.parametrize("name", formats.formats())
def test_every_kind_of_layer_is_measured_in_its_runtime(name: str) -> None:
    """A layer that the runtime does not take, or that takes no time, raises."""
    for point in few(name, 1):
        assert point.per_s(0.0005) > 0, point.name


BROKEN = {
    "negative rate": ("per_s: [1.0e+6, 1.0e+9]", "per_s: [-1.0e+6, 1.0e+9]", "greater than 0"),
    "a rate too few": ("per_s: [1.0e+6, 1.0e+9]", "per_s: [1.0e+6]", "a figure in per_s for each"),
    "sizes fall": ("sizes: [1, 2]", "sizes: [2, 1]", "sizes should rise"),
    "a unit": ("per_s: [1.0e+6, 1.0e+9]", "per_s: [20 GB/s, 1.0e+9]", "should be a valid number"),
    "missing": ("sizes: [1, 2], ", "", "sizes: Field required"),
}


@pytest.mark.parametrize(("right", "wrong", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_table_is_one_line(tmp_path: Path, right: str, wrong: str, message: str) -> None:
    builtin = yaml.safe_dump(devices.load("pi5", tmp_path).model_dump(exclude={"read_bytes_per_s"}, mode="json"))
    text = builtin + "read_bytes_per_s: {sizes: [1, 2], per_s: [1.0e+6, 1.0e+9]}\n"
    assert right in text
    (tmp_path / "host.yaml").write_text(text)
    devices.load("host.yaml", tmp_path)
    (tmp_path / "host.yaml").write_text(text.replace(right, wrong))
    with pytest.raises(UsageError, match=message) as fault:
        devices.load("host.yaml", tmp_path)
    assert "\n" not in str(fault.value)


def test_a_table_with_rows_of_other_lengths_is_refused(tmp_path: Path, profile: dict[str, Any]) -> None:
    text = as_yaml(profile)
    where = "places: [1]\n"
    assert where in text
    (tmp_path / "host.yaml").write_text(text.replace(where, "places: [1, 16]\n"))
    with pytest.raises(UsageError, match=r"measured\.onnx\.rates.*rows of 2"):
        devices.load("host.yaml", tmp_path)


def test_a_plan_names_the_fault_of_a_bad_profile(tmp_path: Path) -> None:
    world = write_world(tmp_path)
    (world / "host.yaml").write_text("title: x\n")
    (message,) = faults(write_plan(world, PLAN))
    assert "host.yaml: storage_bytes: Field required" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("bench", "bench what? A package would do, or --profile for this host"),
        ("bench a.zip --profile h.yaml", "a.zip beside --profile: a package is measured, or this host"),
        ("bench --profile h.txt", "h.txt: a plan's device would not find it; a name that ends in .yaml would do"),
        ("bench --profile no/h.yaml", "no/h.yaml: the folder no does not exist"),
        ("bench --profile there.yaml", "there.yaml is there already; --force overwrites it"),
        ("bench --profile h.yaml --threads 4096", "this host has"),
        ("bench --force a.zip", "--force goes with --profile"),
        ("bench --profile h.yaml --seconds nan", "--seconds"),
    ],
)
def test_a_profile_that_cannot_be_written_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.yaml").write_text("mine")
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert (tmp_path / "there.yaml").read_text() == "mine"


def test_ctrl_c_leaves_no_file(tmp_path: Path) -> None:
    heard = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # a background job of a shell ignores it
    start = f"import signal; from squeeze.cli import main; {heard}; main()"
    command = [sys.executable, "-c", start, "bench", "--profile", "host.yaml"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("measuring this host with 1 thread: memory, then onnx")
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate()
    assert process.returncode == 130
    assert error.splitlines()[-1] == "squeeze: interrupted"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_whole_profile_is_written_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--profile", "host.yaml", "--seconds", "0.001"])
    assert ended.value.code == 0
    device = devices.load("host.yaml", tmp_path)
    assert set(device.measured) == set(formats.formats())
