"""What is hardly wanted is said by the check and refused by nobody; what a fault offers fits what comes behind too."""

from __future__ import annotations

from pathlib import Path

import pytest
from language_world import write_folder, write_tokenizer
from tiny import PLAN, faults, squeeze, tiny_model, write_plan, write_world

from squeeze.api import compress, load
from squeeze.errors import EffectError
from squeeze.models.base import InputSpec
from squeeze.models.source import FactorySource
from squeeze.models.torch_model import TorchModel
from squeeze.passes.prune.prune_channels import PruneChannels
from squeeze.plan.check import check
from squeeze.plan.plan import Step
from squeeze.run.effect import check_effect

PASS = '  - pass: "tiny:Scale"\n    factor: 2.0\n'
PRUNE = "  - pass: prune_channels\n    ratio: 0.5\n    align: 1\n"
TRAIN = "  - pass: finetune\n    epochs: 1\n"
UNTRAINED = "prune_channels: nothing trains what is left{}; finetune or distill behind it would"


def warnings(path: Path) -> list[str]:
    plan = load(path)
    result = check(plan)
    assert not result.faults
    return [f"{warning.line}: {warning.message}" for warning in plan.located(result.warnings)]


def pruned(folder: Path, passes: str) -> Path:
    text = PLAN.replace("  calibrate", "  train: {npz: train.npz}\n  calibrate")
    return write_plan(write_world(folder), text, (PASS, passes))


def test_a_cut_that_nothing_trains_is_told(tmp_path: Path) -> None:
    assert warnings(pruned(tmp_path, PRUNE)) == ["8: " + UNTRAINED.format("")]
    assert warnings(pruned(tmp_path, TRAIN + PRUNE)) == ["10: " + UNTRAINED.format("")]
    assert warnings(pruned(tmp_path, PRUNE + TRAIN)) == []


def test_of_several_targets_those_are_named_on_whose_way_nothing_trains(tmp_path: Path) -> None:
    tail = "[{pass: finetune, epochs: 1}, {pass: export_onnx}]"
    targets = f"targets:\n  - {{name: a, target: cpu, passes: {tail}}}\n  - {{name: b, target: cpu, passes: "
    path = pruned(tmp_path, PRUNE + targets + "[{pass: export_onnx}]}\n")
    assert warnings(path) == ["8: " + UNTRAINED.format(" on the way to b")]


def test_the_command_says_it_and_still_ends_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = pruned(tmp_path, PRUNE)
    assert squeeze("check", path) == 0
    assert f"warning: {path}:8: {UNTRAINED.format('')}" in capsys.readouterr().out


def test_a_run_says_it_too(tmp_path: Path) -> None:
    run = compress(load(pruned(tmp_path, PRUNE)), store=tmp_path / "store")
    assert run.warnings == [f"line 8: {UNTRAINED.format('')}"]


def test_convolutions_on_dynamic_integers_are_slow_and_that_is_told(tmp_path: Path) -> None:
    path = pruned(tmp_path, "  - pass: export_onnx\n  - pass: quantize_dynamic\n    layers: all\n")
    (line,) = warnings(path)
    assert line.startswith("9: quantize_dynamic: layers: all takes 1 convolutions, which are several times slower")


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model with rows of 172 and of 96."""
    folder = tmp_path_factory.mktemp("odd")
    write_folder(folder, hidden_size=96, intermediate_size=172)
    write_tokenizer(folder)
    (folder / "text.txt").write_text("abc def " * 40)
    return folder


LANGUAGE = """\
model: {hf: .}
data: {evaluate: {text: text.txt, length: 16}}
metrics: [perplexity, size]
passes:
  - {pass: rtn, bits: 4, group_size: 128, include: "*.down_proj"}
"""
OFFERS = {
    "": "inputs of *.mlp.down_proj; 2, 4, 43, 86 or null would",
    "targets: [{target: cpu, passes: [{pass: export_onnx}]}]\n": (
        "inputs of *.mlp.down_proj; null would (2, 4, 43, 86 divide them, but export_onnx: "
        "MatMulNBits has no group_size 86; null would do)"
    ),
    "targets: [{target: cpu, passes: [{pass: export_onnx, weights: qdq}]}]\n": "2, 4, 43, 86 or null would",
    "targets: [{target: gguf, runtime: transformers}]\n": (
        "inputs of *.mlp.down_proj; no other would (2, 4, 43, 86 divide them, but target gguf: "
    ),
}


@pytest.mark.parametrize("targets", OFFERS, ids=["alone", "nbits", "qdq", "gguf"])
def test_group_sizes_are_offered_that_fit_what_comes_behind_too(odd: Path, targets: str) -> None:
    (fault,) = faults(write_plan(odd, LANGUAGE + targets))
    assert "group_size 128 does not divide the 172 " in fault
    assert OFFERS[targets] in fault


def test_what_an_export_offers_divides_the_weight(odd: Path) -> None:
    text = LANGUAGE.replace("128", "43") + "targets: [{target: cpu, passes: [{pass: export_onnx}]}]\n"
    (fault,) = faults(write_plan(odd, text))
    assert fault.endswith("down_proj.weight: MatMulNBits has no group_size 43; null would do")


def of_width(width: int) -> TorchModel:
    source = FactorySource("tiny:network", (("width", width),))
    return TorchModel(source.build(), source, (InputSpec("image", (3, 6, 6)),))


def test_fewer_bytes_are_fewer_than_the_original_has(tmp_path: Path) -> None:
    """What grew before may shrink and is no smaller than what the user came with."""
    step = Step(PruneChannels(ratio=0.5), ("passes", 0))
    check_effect(step, (tiny_model(), of_width(16), of_width(6)), (tmp_path, tmp_path), {})
    line = r"passes.0: prune_channels promises fewer bytes, but left 1,\d+; the original has 1,\d+"
    with pytest.raises(EffectError, match=line):
        check_effect(step, (tiny_model(), of_width(16), of_width(9)), (tmp_path, tmp_path), {})
