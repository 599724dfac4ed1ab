"""Do the parts of a plan fit together? Found before anything runs, at the line that is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import PLAN, Quantize, Scale, faults, tiny_model, write_npz, write_plan, write_world

from squeeze.api import check
from squeeze.errors import UsageError
from squeeze.plan.plan import Plan

PASS = '  - pass: "tiny:Scale"\n    factor: 2.0\n'
DATA = "{npz: evaluate.npz}"


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return write_world(tmp_path)


@pytest.mark.parametrize(
    ("passes", "fault"),
    [
        ("  - pass: quantize_static\n", "7: quantize_static takes an ONNX model and is given a torch model; put"),
        (
            "  - pass: export_onnx\n  - pass: prune_channels\n    ratio: 0.5\n",
            "8: prune_channels takes a torch model and is given an ONNX model; it must come before export_onnx (line",
        ),
        (
            '  - pass: "tiny:Quantize"\n  - pass: prune_channels\n    ratio: 0.5\n',
            "8: prune_channels must come before quantize (line 7), which leaves the weights quantized",
        ),
        ("  - pass: finetune\n", "7: finetune needs data.train, which the plan does not name"),
        (
            "  - pass: prune_channels\n    ratio: 0.5\n    include: '*.frist.*'\n",
            '7: prune_channels: include "*.frist.*" matches no layer',
        ),
        ("  - pass: prune_channels\n    ratio: 0.001\n", "7: prune_channels: ratio 0.001 rounds to no channel"),
        (
            "  - pass: prune_channels\n    macs: 50 %\n    latency_table: nowhere.json\n",
            "7: prune_channels: ",
        ),
        (
            PASS + "targets:\n  - target: cpu\n",
            "10: target cpu packs an ONNX model or the files of a language model's runtime and is given a torch model",
        ),
    ],
)
def test_passes_that_do_not_fit_are_told_before_anything_runs(world: Path, passes: str, fault: str) -> None:
    messages = faults(write_plan(world, PLAN, (PASS, passes)))
    assert messages[0].startswith(fault), messages


def test_a_plan_without_passes_says_what_it_lacks(world: Path) -> None:
    assert "the plan has no passes" in faults(write_plan(world, PLAN, ("passes:\n" + PASS, "")))[0]


def test_an_export_of_what_is_onnx_already_says_to_leave_it_out(world: Path) -> None:
    path = write_plan(
        world,
        PLAN,
        ('{module: "tiny:network", weights: tiny.safetensors}', "{onnx: gone.onnx}"),
        (PASS, "  - pass: export_onnx\n"),
    )
    first, second = faults(path)
    assert first.startswith("1: ")
    assert first.endswith("gone.onnx: no such file")
    assert second.endswith("is given an ONNX model, with which the plan starts; leave it out")


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        ("{builtin: digit-cnn}", "unknown builtin model 'digit-cnn'; did you mean 'digits-cnn'?"),
        ("{hf: nowhere}", "no config.json here; a Hugging Face model folder has one"),
        ('{module: "tiny:network", weights: gone.pt}', "gone.pt does not exist"),
        ('{module: "tiny:netwrok", weights: tiny.safetensors}', "did you mean 'network'?"),
        ('{module: "tiny:raises", weights: tiny.safetensors}', "tiny:raises raised RuntimeError: no disk (tiny.py:"),
        ('{module: "tiny:leaves", weights: tiny.safetensors}', "tiny:leaves raised SystemExit: 3 (tiny.py:"),
        ('{module: "tiny:nothing", weights: tiny.safetensors}', "tiny:nothing returned a NoneType; a torch.nn.Module"),
        ('{module: "tiny:number", weights: tiny.safetensors}', "tiny:number is 3; a callable that returns"),
        ('{module: "tiny:two_maps", weights: tiny.safetensors}', "returned [1, 4, 4, 4] for 1 examples; logits"),
        (
            '{module: "tiny:network", weights: tiny.safetensors, arguments: {wdth: 3}}',
            "raised TypeError: network() got an unexpected keyword argument 'wdth'",
        ),
    ],
)
def test_a_model_that_cannot_be_built_is_one_fault_at_the_model(world: Path, model: str, fault: str) -> None:
    path = write_plan(world, PLAN, ('{module: "tiny:network", weights: tiny.safetensors}', model))
    (messages,) = faults(path)
    assert messages.startswith("1: ")
    assert fault in messages


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("{npz: gone.npz}", "gone.npz does not exist"),
        ("{folder: gone}", "gone does not exist"),
        ("{npz: evaluate.npz, skip: 12}", "npz asks for 13 examples (skip + samples); it has 12"),
        ("{npz: evaluate.npz, samples: 13}", "npz asks for 13 examples (skip + samples); it has 12"),
        ("{npz: evaluate.npz, images: imags}", "no array 'imags'; did you mean 'images'?"),
        ("{npz: evaluate.npz, crop: 90}", "crop 90 x 90 is larger than an image of 6 x 6; resize first"),
        ("{npz: evaluate.npz, processor: gone}", "no image processor here"),
        ("{npz: evaluate.npz, normalize: {mean: [0, 0], std: [1, 1]}}", "normalize has 2 channels; the images have 3"),
    ],
)
def test_data_that_cannot_be_opened_is_one_fault_at_its_role(world: Path, source: str, fault: str) -> None:
    (messages,) = faults(write_plan(world, PLAN, (DATA, source)))
    assert messages.startswith("3: data.evaluate: ")
    assert fault in messages


def test_calibration_data_that_is_absent_is_a_fault_at_its_own_line(world: Path) -> None:
    (messages,) = faults(write_plan(world, PLAN, ("calibrate.npz", "gone.npz")))
    assert messages.startswith("4: data.calibrate: npz: ")


def test_metrics_that_need_labels_want_data_with_labels(world: Path) -> None:
    path = write_plan(world, PLAN, ("evaluate.npz}", "evaluate.npz, labels: null}"))
    assert faults(path) == ["5: top1 needs labels, which data.evaluate has not; kl and flips do not"]
    assert faults(path, "metrics=[kl, flips, size]") == []


def test_scores_want_something_to_score_on(world: Path) -> None:
    path = write_plan(
        world,
        PLAN,
        (f"  evaluate: {DATA}\n", ""),
        ("tiny.safetensors}", "tiny.safetensors, input: [3, 6, 6]}"),
    )
    assert faults(path) == ["2: data.evaluate is missing; top1, kl need something to measure on"]
    assert faults(path, "metrics=[size, latency]") == [], "the clock takes the golden input"


def test_examples_of_another_shape_than_the_model_takes_are_told_at_the_data(world: Path) -> None:
    path = write_plan(world, PLAN, ("tiny.safetensors}", "tiny.safetensors, input: [3, 8, 8]}"))
    (messages,) = faults(path)
    assert messages.startswith("3: data.evaluate: an example is 3 x 6 x 6; the model takes 3 x 8 x 8: resize:")
    assert faults(path, "data.evaluate.resize=8") == []


def test_examples_that_the_network_cannot_run_on_are_told_in_one_line(world: Path) -> None:
    write_npz(world / "evaluate.npz", images=np.zeros((12, 6, 6), np.uint8))
    (messages,) = faults(write_plan(world))
    assert messages.startswith("1: the model does not take examples of shape [1, 6, 6] (RuntimeError: ")


def test_a_plan_of_the_api_is_checked_as_a_file_is(world: Path) -> None:
    plan = Plan([Quantize(), Scale()], data={}, metrics=(), root=world)
    assert [fault.message for fault in check(plan)] == ["the plan names no model; model: {hf: ./folder} would"]


def test_a_plan_of_the_api_says_what_is_no_pass_and_what_no_metric() -> None:
    with pytest.raises(UsageError, match=r"passes\.1: 3 is no pass; PruneChannels\(ratio=0\.5\) would be one"):
        Plan([Scale(), 3])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="budget: 'los' is not among the plan's metrics; did you mean 'loss'"):
        Plan([Scale()], budget={"los": "+2 %"})


def test_a_check_does_not_touch_the_model_that_it_is_given() -> None:
    from squeeze import PruneChannels
    from squeeze.plan.check import check

    model = tiny_model()
    before = model.parameters()
    assert check(Plan([PruneChannels(ratio=0.5, align=1)], metrics=()), model=model).faults == []
    assert model.parameters() == before
    assert not model.is_meta
