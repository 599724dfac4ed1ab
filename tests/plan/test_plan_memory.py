"""What a plan takes of memory is known from shapes; a plan that allows less is refused before anything runs."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from language_world import write_folder, write_tokenizer
from tiny import PLAN as CLASSIFIER
from tiny import faults, squeeze, write_plan, write_world

from squeeze.api import load
from squeeze.evaluate.tokens import scoring_bytes
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.quantize.gptq import Gptq
from squeeze.passes.quantize.language.awq import Awq
from squeeze.passes.quantize.rtn import Rtn
from squeeze.writers.executorch_decoder import ExecuTorchDecoderWriter

BENCHMARK = Path(__file__).parent.parent.parent / "benchmarks" / "memory.py"
PLAN = """\
model: {hf: ./model}
memory: 100MB
data:
  calibrate: {text: text.txt, length: 16, samples: 4}
  evaluate: {text: text.txt, length: 16}
passes:
  - {pass: gptq, bits: 4, group_size: 32}
"""
PHONE = """\
model: {hf: ./model}
memory: 550MB
metrics: [size]
passes:
  - {pass: rtn, bits: 4, group_size: 32, scales: bfloat16}
targets: [{target: mobile, name: phone, runtime: executorch, context: 64}]
"""
TRAINING = """\
model: {hf: ./wide}
memory: 0.7GB
data:
  train: {text: text.txt, length: 16}
  evaluate: {text: text.txt, length: 16, samples: 2}
metrics: [size]
passes:
  - {pass: finetune, batch_size: 4}
"""


@pytest.fixture
def world(tmp_path: Path) -> Path:
    write_tokenizer(write_folder(tmp_path / "model"))
    (tmp_path / "text.txt").write_text("abc " * 100)
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path


def test_a_plan_that_allows_too_little_is_refused_with_what_would_do(world: Path) -> None:
    lines = faults(world / "plan.yaml")
    assert any(fault.startswith("2: memory: 100 MB is less than the 4") and "scoring takes" in fault for fault in lines)
    assert any("that gptq (line 7) takes; memory: 0.5GB would do" in fault for fault in lines)


def test_a_plan_for_images_that_allows_less_than_the_process_takes_is_refused(tmp_path: Path) -> None:
    write_world(tmp_path)
    messages = faults(write_plan(tmp_path, CLASSIFIER + "memory: 300MB\n"))
    assert messages == [
        "9: memory: 300 MB is less than the 450 MB that a run takes at least; memory: 0.5GB or more would do"
    ]
    assert faults(write_plan(tmp_path, CLASSIFIER + "memory: 500MB\n")) == []


def test_a_training_that_takes_too_much_is_told_the_options_that_fit(world: Path) -> None:
    write_tokenizer(write_folder(world / "wide", hidden_size=512, intermediate_size=1024, num_hidden_layers=8))
    lines = faults(write_plan(world, TRAINING))
    assert any("finetune (line 8) takes; memory: 0.8GB, or optimizer: adafactor would do" in line for line in lines), (
        lines
    )
    lines = faults(write_plan(world, TRAINING.replace("batch_size: 4", "batch_size: 4, optimizer: adafactor")))
    assert not any("finetune" in line for line in lines)


def test_enough_is_enough(world: Path) -> None:
    (world / "plan.yaml").write_text(PLAN.replace("100MB", "0.5GB"))
    assert faults(world / "plan.yaml") == []
    (world / "plan.yaml").write_text(PLAN.replace("memory: 100MB\n", ""))
    assert faults(world / "plan.yaml") == []


def test_writing_a_phones_file_takes_memory_of_the_plan_too(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (world / "plan.yaml").write_text(PHONE)
    found = [fault for fault in faults(world / "plan.yaml") if "memory" in fault]
    assert found == [
        "2: memory: 550 MB is less than the 600 MB that writing the files of target phone takes; memory: 0.7GB would do"
    ]
    (world / "plan.yaml").write_text(PHONE.replace("550MB", "0.7GB"))
    assert squeeze("check", world / "plan.yaml", "--explain") == 0
    assert "phone: about 600 MB of memory while its files are written" in capsys.readouterr().out
    assert squeeze("check", world / "plan.yaml", "--json") == 0
    output = json.loads(capsys.readouterr().out)
    assert output["cost"]["memory_bytes"] == output["writing_bytes"]["phone"]


def test_an_export_takes_more_for_what_it_holds_at_once_and_not_for_repeated_blocks(tmp_path: Path) -> None:
    """Blocks that repeat are copied one by one."""
    shapes = {
        "four": {"num_hidden_layers": 4},
        "five": {"num_hidden_layers": 5},
        "many": {"num_hidden_layers": 40},
        "wide": {"num_hidden_layers": 5, "intermediate_size": 4096},
        "words": {"num_hidden_layers": 5, "vocab_size": 50_000},
    }
    models = {name: LanguageModel(write_folder(tmp_path / name, **changes)) for name, changes in shapes.items()}
    caches = {name: 4 * 64 * model.cache_values() for name, model in models.items()}
    writer = ExecuTorchDecoderWriter(64)
    without = {name: (writer.memory_bytes(model, {}) or 0) - caches[name] for name, model in models.items()}
    assert without["four"] == without["five"] == without["many"] < min(without["wide"], without["words"])


def test_the_check_explains_what_each_pass_takes(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (world / "plan.yaml").write_text(PLAN.replace("100MB", "4GB"))
    assert squeeze("check", world / "plan.yaml", "--explain") == 0
    assert "memory" in (text := capsys.readouterr().out)
    assert "about 45" in text
    assert "the store keeps 256 bytes of the original for each token of data.evaluate" in text
    assert squeeze("check", world / "plan.yaml", "--json") == 0
    (output,) = json.loads(capsys.readouterr().out)["passes"]
    model = load(world / "plan.yaml").model
    assert model is not None
    assert output["memory_bytes"] == Gptq(group_size=32).memory_bytes(model.outline(world), 64, 4 * 10**9)


def test_a_wider_model_takes_more_and_a_deeper_one_does_not(tmp_path: Path) -> None:
    shapes = {"one": {}, "deep": {"num_hidden_layers": 6}, "wide": {"hidden_size": 256, "intermediate_size": 512}}
    models = {name: LanguageModel(write_folder(tmp_path / name, **changes)) for name, changes in shapes.items()}
    for pass_ in (Gptq(group_size=32), Awq(group_size=32), Rtn(group_size=32)):
        nbytes = {name: pass_.memory_bytes(model, 64, None) or 0 for name, model in models.items()}
        assert nbytes["one"] == nbytes["deep"] < nbytes["wide"]
    assert scoring_bytes(models["one"], 16, 4) < scoring_bytes(models["one"], 16) <= scoring_bytes(models["wide"], 16)


def test_activations_past_a_quarter_of_the_limit_lie_on_disk(world: Path) -> None:
    model, pass_ = LanguageModel(world / "model"), Gptq(group_size=32, target="given")
    many = 10**9
    free, limited = (pass_.memory_bytes(model, many, limit) or 0 for limit in (None, 10**9))
    assert free - limited == many * model.skeleton.token_bytes - 10**9 // 4


@pytest.mark.slow
def test_what_is_foretold_is_what_the_system_measures(tmp_path: Path) -> None:
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "vocab_size": 4000, "num_hidden_layers": 2}
    folder = write_folder(tmp_path / "model", **sizes)
    done = subprocess.run([sys.executable, BENCHMARK, "--child", folder], capture_output=True, text=True, check=True)
    output = json.loads(done.stdout.splitlines()[-1])
    assert output["foretold_bytes"] == pytest.approx(output["peak_bytes"], rel=0.25)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("executorch") is None, reason="no executorch: pip install 'squeeze[mobile]'")
def test_what_is_foretold_of_an_export_is_what_the_system_measures(tmp_path: Path) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 120_000, "num_hidden_layers": 2}
    folder = write_folder(tmp_path / "model", **sizes)
    command = [sys.executable, BENCHMARK, "--pte", "--child", folder]
    output = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    assert output["foretold_bytes"] == pytest.approx(output["peak_bytes"], rel=0.15)
