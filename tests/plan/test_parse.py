"""From text to a plan: unknown names get the nearest known one, wrong values what would be right, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import PLAN, faults, write_plan, write_world

from squeeze.api import load
from squeeze.errors import PlanError

MODEL = 'model: {module: "tiny:network", weights: tiny.safetensors}'


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return write_world(tmp_path)


def test_the_tiny_plan_has_no_fault(world: Path) -> None:
    assert faults(write_plan(world)) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('"tiny:Scale"', "export_onx", "7: unknown pass 'export_onx'; did you mean 'export_onnx'?"),
        ('"tiny:Scale"', '"tiny:Scal"', "7: tiny:Scal: 'tiny' has no 'Scal'; did you mean 'Scale'?"),
        ('"tiny:Scale"', '"tinny:Scale"', "7: tinny:Scale: cannot import 'tinny' (No module named 'tinny')"),
        ('"tiny:Scale"', '"tiny:network"', "7: pass 'tiny:network': <function network"),
        ("    factor", "    fcator", "8: tiny:Scale: unknown option 'fcator'; did you mean 'factor'?"),
        ("factor: 2.0", "factor: two", "8: tiny:Scale: factor is 'two'; input should be a valid number"),
        (
            "factor: 2.0",
            "factor: 2.0\n  - {pass: distill, features: 3}",
            "9: distill: features is 3; input should be a list or input should be a mapping",
        ),
        ("top1, kl", "top2, kl", "5: unknown metric 'top2'; did you mean 'top"),
        ("top1, kl", "kl, kl", "5: metrics: 'kl' stands twice; scores are known by their names"),
        ("top1, kl", "3, kl", "5: metrics: 3 is no metric"),
        ("top1, kl", "{latency: {bach: 2}}, kl", "5: latency: unknown option 'bach'; did you mean 'batch'?"),
        ("top1, kl", "{latency: 3}, kl", "5: latency: options are 3; a mapping"),
        ("[top1, kl, size]", "top1", "5: metrics: is no list"),
        ("  evaluate:", "  evalaute:", "3: data has no 'evalaute'; did you mean 'evaluate'?"),
        ("{npz: evaluate.npz}", "{nzp: evaluate.npz}", "3: data.evaluate: names no data source; did you mean 'npz'?"),
        ("{npz: evaluate.npz}", "evaluate.npz", "3: data.evaluate: names no source"),
        ("{npz: evaluate.npz}", "{npz: a, folder: b}", "3: data.evaluate: names npz and folder; one of them would do"),
        ("evaluate.npz}", "evaluate.npz, sampels: 3}", "3: data.evaluate: npz: unknown option 'sampels'"),
        ("evaluate.npz}", "evaluate.npz, samples: 0}", "3: data.evaluate: npz: samples is 0; input should be greater"),
        ("evaluate.npz}", "evaluate.npz, seed: -1}", "3: data.evaluate: npz: seed is -1; input should be greater"),
        ("evaluate.npz}", "evaluate.npz, resize: 100000}", "3: data.evaluate: npz: resize is 100000; input should be"),
        ("evaluate.npz}", "evaluate.npz, scale: -1}", "3: data.evaluate: npz: scale is -1"),
        (
            "evaluate.npz}",
            "evaluate.npz, normalize: {mean: [0, 0, 0], std: [1]}}",
            "3: data.evaluate: npz: normalize is {'mean': [0, 0, 0], 'std': [1]}; 3 means and 1 stds",
        ),
        ('  - pass: "tiny:Scale"\n    factor: 2.0', "  - export_onnx", "7: passes.0: is no pass"),
        ('  - pass: "tiny:Scale"\n    factor: 2.0', "  - pass:", "7: passes.0: is no pass"),
        ('  - pass: "tiny:Scale"\n    factor: 2.0', "  pass: export_onnx", "6: passes: is no list"),
        (MODEL, "seed: 1", "1: model: is missing; one of hf, gguf, module, builtin, onnx"),
        (MODEL, "model: tiny", "1: model: is 'tiny'; one of hf, gguf, module, builtin, onnx"),
        (MODEL, "model: {hf: a, onnx: b}", "1: model: names 2 of hf, gguf, module, builtin, onnx"),
        (MODEL, "model: {hf: 3}", "1: model: hf is 3; a path or name would do"),
        (MODEL, "model: {builtin: digits-cnn, wieghts: x}", "1: model has no 'wieghts'; did you mean 'weights'?"),
        (MODEL, 'model: {module: "tiny:network"}', "1: model: a module needs weights"),
        (MODEL, 'model: {module: "tiny:network", weights: }', "1: model: a module needs weights"),
        (MODEL, "model: {builtin: digits-cnn, weights: 3}", "1: model: weights is 3; a path would do"),
        (MODEL, "model: {onnx: a.onnx, weights: b.pt}", "1: model: weights does not go with onnx"),
        (MODEL, "model: {hf: a, arguments: {a: 1}}", "1: model: arguments does not go with hf"),
        ("tiny.safetensors}", "tiny.safetensors, input: 3}", "1: model: input is 3; a shape such as [3, 32, 32]"),
        ("tiny.safetensors}", "tiny.safetensors, arguments: [1]}", "1: model: arguments is no mapping"),
        ("tiny.safetensors}", "tiny.safetensors, arguments: {1: 2, a: 3}}", "1: model: arguments is no mapping"),
    ],
)
def test_a_wrong_name_or_value_is_told_at_its_line_with_what_would_be_right(
    world: Path, old: str, new: str, fault: str
) -> None:
    messages = faults(write_plan(world, PLAN, (old, new)))
    assert messages[0].startswith(fault), messages


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("pases: []", "9: a plan has no 'pases'; did you mean 'passes'?"),
        ("1: 2", "9: a plan has no '1'"),
        ("version: 2", "9: version: is 2; this Squeeze reads plans of version 1"),
        ("version: true", "9: version: is True; this Squeeze reads plans of version 1"),
        ("version: '1'", "9: version: is '1'; this Squeeze"),
        ("version:", "9: version: is None; this Squeeze"),
        ("version: [1]", "9: version: is [1]; this Squeeze"),
        ("data: 3", "9: 'data' stands twice here"),
        ("vars: 3", "9: vars: is 3; names and texts"),
        ("threads:", "9: threads: is None; a whole number"),
        ("seed: -1", "9: seed: is -1; a whole number from 0"),
        ("seed: true", "9: seed: is True; a whole number"),
        ("seed: 1e99", "9: seed: is"),
        ("seed: 99999999999", "9: seed: is 99999999999; a whole number from 0 to 4294967295"),
        ("threads: 0", "9: threads: is 0; a whole number from 1"),
        ("strict: perhaps", "9: strict: is 'perhaps'; true or false would do"),
        ("memory: lots", "9: memory: 'lots' cannot be read; 4GB or 1500MB would do"),
        ("memory: infGB", "9: memory: 'infGB' cannot be read"),
        ("memory: -4GB", "9: memory: '-4GB' cannot be read"),
        ("memory: 4", "9: memory: '4' cannot be read"),
        ("memory: [4]", "9: memory: '[4]' cannot be read"),
        ("budget: 3", "9: budget: is no mapping"),
        ("budget: {sise: '<= 3 %'}", "9: budget: 'sise' is not among the plan's metrics"),
        ("budget: {loss: '+2 %'}", "9: budget: 'loss' is not among the plan's metrics"),
        ("budget: {3: '<= 3 %'}", "9: budget: '3' is not among the plan's metrics"),
        ("budget: {size: small}", "9: budget 'small' cannot be read"),
        ("targets: cpu", "9: targets: is no list"),
        ("targets: [cpu]", "9: targets.0: is no target; '- target: cpu' would be"),
        ("targets: [{target: cup}]", "9: unknown target 'cup'; did you mean 'cpu'?"),
        ("targets: [{target: cpu, runtme: x}]", "9: cpu: unknown option 'runtme'; did you mean 'runtime'?"),
        ("targets: [{target: cpu, name: ../x}]", "9: targets: name '../x' becomes a file name"),
        ("targets: [{target: cpu}, {target: cpu}]", "9: targets: 'cpu' stands twice; name: would tell the two apart"),
        ("targets: [{name: a, pases: []}]", "9: branch a has no 'pases'; did you mean 'passes'?"),
        ("targets: [{name: a, passes: 3}]", "9: targets.0.passes: is no list; each pass is an element"),
        ("targets: [{target: cpu, passes: [{pass: exprt_onnx}]}]", "9: unknown pass 'exprt_onnx'; did you mean"),
    ],
)
def test_a_wrong_setting_is_told_at_its_line_with_what_would_be_right(world: Path, line: str, fault: str) -> None:
    messages = faults(write_plan(world, PLAN + line + "\n"))
    assert messages[0].startswith(fault), messages


def test_every_fault_of_a_plan_is_shown_at_once_in_the_order_of_the_file(world: Path) -> None:
    path = write_plan(world, PLAN + "seed: -1\n", ("top1", "top9"), ("factor", "fcator"), ("npz: eval", "nzp: eval"))
    with pytest.raises(PlanError) as caught:
        load(path)
    lines = str(caught.value).splitlines()
    assert [line.removeprefix(f"{path}:").partition(":")[0] for line in lines] == ["3", "5", "8", "9"]


def test_an_option_of_a_metric_or_of_its_data_is_told_at_its_own_line(world: Path) -> None:
    text = PLAN.replace(
        "[top1, kl, size]",
        "\n  - latency:\n      bach: 2"
        "\n  - choice:\n      data:\n        pairs: x\n        sampels: 3"
        "\n  - cosine: {data: 3}",
    )
    messages = faults(write_plan(world, text))
    assert messages[0] == "7: latency: unknown option 'bach'; did you mean 'batch'?"
    assert messages[1].startswith("11: metrics.1.choice.data: pairs: unknown option 'sampels'; did you mean 'samples'?")
    assert messages[2].startswith("12: cosine: unknown option 'data'")


def test_what_is_wrong_with_the_metrics_hides_no_wrong_bound(world: Path) -> None:
    text = (
        PLAN.replace("top1, kl", "top9, kl")
        + "budget: {kl: small, loss: '+2 %'}\nprimary: size\nequivalence: {kl: 1 %}\n"
    )
    messages = [fault.partition(": ")[2] for fault in faults(write_plan(world, text))]
    assert [line.split(";")[0].split("cannot")[0].strip() for line in messages] == [
        "unknown metric 'top9'",
        "budget 'small'",
        "budget: 'loss' is not among the plan's metrics",
        "primary: 'size' has no verdict that rests on chance",
        "equivalence: 'kl' is not judged",
    ]


def test_a_target_that_is_wrong_itself_is_told_when_its_name_stands_twice(world: Path) -> None:
    messages = faults(write_plan(world, PLAN + "targets: [{target: cpu}, {target: cpu, x: 1}]\n"))
    assert [line.split(";")[0] for line in messages] == [
        "9: cpu: unknown option 'x'",
        "9: targets: 'cpu' stands twice",
    ]


def test_a_plan_that_is_read_says_again_what_it_read(world: Path) -> None:
    plan = load(write_plan(world, PLAN + "budget: {size: '<= 30 %'}\nmemory: 1.5 GB\nseed: 3\n"))
    resolved = plan.resolved()
    assert resolved["passes"] == [{"pass": "scale", "factor": 2.0}]
    assert resolved["budget"] == {"size_bytes": "<= 30 %"}
    assert (plan.seed, plan.memory_bytes, plan.name, plan.root) == (3, 1_500_000_000, "plan", world.resolve())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("primary: tpo1", "9: primary: 'tpo1' is not among the plan's metrics"),
        ("primary: size", "9: primary: 'size' has no verdict that rests on chance"),
        ("primary: 3", "9: primary: is 3; the name of a metric would do"),
        ("primary: []", "9: primary: is \\[\\]; the name of a metric would do"),
        ("equivalence: {size: 1 %}", "9: equivalence: 'size' is not judged; primary: size would judge it"),
    ],
)
def test_a_primary_metric_is_one_that_can_be_judged(world: Path, text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        load(write_plan(world, PLAN + text + "\n"))
