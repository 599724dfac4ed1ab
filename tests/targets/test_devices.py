"""Device profiles: figures with sources, packages that are too large, and predictions beside what is published."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import transformers
from language_world import write_folder
from tiny import faults, write_plan, write_world

from squeeze.errors import UsageError
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.onnx_model import OnnxModel
from squeeze.targets import devices, fit
from squeeze.targets.cpu import Cpu

ROOT = Path.cwd()
SMALL = """\
title: a board
storage_bytes: {{value: {storage}, source: its data sheet}}
memory_bytes: {{value: {memory}, source: its data sheet}}
cores: {{value: 1, source: its data sheet}}
bandwidth_bytes_per_s: {{value: 1e9, source: its data sheet}}
int8_macs_per_s: {{value: 1e9, source: its data sheet}}
float_macs_per_s: {{value: 1e9, source: its data sheet}}
"""
PLAN = """\
model: {module: "tiny:network", weights: tiny.safetensors}
data: {evaluate: {npz: evaluate.npz}}
metrics: [top1]
passes: [{pass: export_onnx}]
targets: [{target: cpu, device: DEVICE}]
"""


@pytest.mark.parametrize("name", devices.names())
def test_each_profile_is_whole_and_its_peaks_are_in_order(name: str) -> None:
    device = devices.load(name, ROOT)
    assert device.int8_macs_per_s.value > device.float_macs_per_s.value
    assert device.storage_bytes.value > device.memory_bytes.value / 4


@pytest.mark.parametrize(
    ("mebibytes", "macs", "integers", "tokens_per_s"),
    [
        (2358, 1.24e9, False, 19.2),
        (1083, 1.24e9, True, 50.2),
        (1127, 1.24e9, True, 45.8),
        (6129, 3.21e9, False, 7.6),
        (2435, 3.21e9, True, 19.7),
        (2529, 3.21e9, True, 18.5),
    ],
    ids=["1B bf16", "1B SpinQuant", "1B QLoRA", "3B bf16", "3B SpinQuant", "3B QLoRA"],
)
def test_what_is_published_of_a_phone_lies_in_the_predicted_interval(
    mebibytes: int, macs: float, integers: bool, tokens_per_s: float
) -> None:
    """Llama 3.2 in ExecuTorch on a OnePlus 12, prompts of 64 tokens: executorch/examples/models/llama/README.md."""
    demand = fit.Demand(mebibytes * 2**20, 0, 0, 128, int(macs), integers)
    least, most = demand.seconds(devices.load("phone-flagship", ROOT))
    assert least <= 1 / tokens_per_s <= most
    assert most / least <= 1.5 + 1e-9


def test_a_slower_runtime_is_outside() -> None:
    """LiteRT-LM's README: Gemma 3 1B, 557 MB, 43.6 tokens/s on an S24 Ultra, which has the OnePlus 12's chip: the
    interval says what good kernels reach, and these read a third of what the memory gives."""
    demand = fit.Demand(557_000_000, 0, 0, 2048, 1_000_000_000, True)
    least, most = demand.seconds(devices.load("phone-flagship", ROOT))
    assert most < 1 / 43.6
    assert f"{1 / most:.0f} to {1 / least:.0f} tokens/s" == "69 to 103 tokens/s"


def test_memory_counts_the_cache_at_the_context() -> None:
    demand = fit.Demand(1_000_000_000, 0, 88_000_000, 2048, None, True)
    line = fit.line(demand, devices.load("phone-mid", ROOT), "phone-mid")
    assert "RAM 1.09 GB of 3.00 GB at context 2,048, KV cache 88.0 MB" in line
    assert "predicted from its peaks, not measured" in line


def test_a_cache_holds_keys_and_values_of_the_heads_that_have_some(tmp_path: Path) -> None:
    """Heads that share keys and values count once: as many numbers as the model's own code keeps for a token."""
    model = LanguageModel(write_folder(tmp_path / "llama"))
    config = model.skeleton.module.config
    assert config.num_key_value_heads < config.num_attention_heads
    whole = transformers.AutoModelForCausalLM.from_config(config)
    remaining = whole(torch.ones(1, 3, dtype=torch.long), use_cache=True).past_key_values
    numbers = sum(layer.keys.numel() + layer.values.numel() for layer in remaining.layers)
    assert model.cache_values() == numbers // 3


def test_a_microcontrollers_weights_stay_in_flash() -> None:
    """300 KB of weights and 131 KB of activations: twice the weights would not fit beside them into 512 KB."""
    demand = fit.Demand(300_000, 131_072, None, 2048, 40_000_000, True)
    assert demand.memory(devices.load("microcontroller", ROOT)) == 131_072
    assert demand.memory(devices.load("pi5", ROOT)) == 2 * 300_000 + 131_072


def test_activations_are_those_of_the_widest_operator(model: OnnxModel) -> None:
    """The Conv reads 3 x 8 x 8 and writes 8 x 8 x 8; Relu reads and writes 8 x 8 x 8."""
    assert model.working_values() == 2 * 8 * 8 * 8


@pytest.mark.parametrize(
    ("storage", "memory", "message"),
    [
        (100, 10**9, r"device \S+board.yaml \(a board\) has 100 bytes of storage, and the files take"),
        (10**9, 100, r"device \S+board.yaml \(a board\) has 100 bytes of memory for an app, and it takes"),
    ],
)
def test_a_plan_for_a_device_that_is_too_small_is_refused(
    tmp_path: Path, storage: int, memory: int, message: str
) -> None:
    folder = write_world(tmp_path)
    (folder / "board.yaml").write_text(SMALL.format(storage=storage, memory=memory))
    (messages,) = faults(write_plan(folder, PLAN.replace("DEVICE", "./board.yaml")))
    assert re.search(f"target cpu: {message}", messages)


def test_an_unknown_device_is_a_fault_with_the_nearest_name(tmp_path: Path) -> None:
    (messages,) = faults(write_plan(write_world(tmp_path), PLAN.replace("DEVICE", "pi4")))
    assert "no device 'pi4'; did you mean 'pi5'?" in messages


def test_a_device_that_is_not_named_leaves_no_trace_in_the_options() -> None:
    assert Cpu().options() == {"runtime": "onnxruntime"}
    assert Cpu(device="pi5").options() == {"device": "pi5", "device_context": 2048, "runtime": "onnxruntime"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it: Input should be"),
        ("title: [", "no YAML"),
        (SMALL.format(storage=-1, memory=1), "storage_bytes.value: Input should be greater than 0"),
        (SMALL.format(storage="17 GB", memory=1), "storage_bytes.value: Input should be a valid number"),
        (SMALL.format(storage=".inf", memory=1), "storage_bytes|no YAML"),
        (SMALL.format(storage=1, memory=1).replace("cores", "corse"), "cores: Field required"),
        (SMALL.format(storage=1, memory=1).replace("source: its data sheet", "source: me"), "storage_bytes.source"),
        (SMALL.format(storage=1, memory=1) + "colour: red\n", "colour: Extra inputs"),
        ("\x00", "no YAML"),
    ],
)
def test_a_file_that_is_no_profile_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "board.yaml").write_text(text)
    with pytest.raises(UsageError, match=message) as fact:
        devices.load("board.yaml", tmp_path)
    assert "\n" not in str(fact.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.yaml: no profile of a device"):
        devices.load("gone.yaml", tmp_path)
