"""Killed at any moment, the same command goes on and ends with the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from killing import KILLED, kill_and_resume, undisturbed

from squeeze.models.source import FactorySource
from squeeze.models.weights import write_weights

KILLS = pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.slow)])
CLASSIFIER = """
model: {module: "network:network", weights: original.safetensors}
threads: 1
data:
  train: {builtin: digits, split: train, samples: 256}
  calibrate: {builtin: digits, split: calibrate, samples: 64}
  evaluate: {builtin: digits, split: evaluate, samples: 128}
metrics: [top1, kl, size, parameters]
passes:
  - {pass: prune_channels, macs: 70 %}
  - {pass: distill, epochs: 20, batch_size: 32}
  - {pass: export_onnx}
  - {pass: quantize_static}
targets: [{target: cpu}]
"""
NETWORK = """
from torch import nn

def network():
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    layers += [nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
"""
LANGUAGE_MODEL = """
model: {hf: "${real}/models/stories260K/hf"}
threads: 1
data:
  calibrate: {text: "${real}/data/prose/calibrate.txt", length: 64, samples: 32}
metrics: [size]
passes:
  - {pass: gptq, bits: 4, group_size: null}
"""


@KILLS
@pytest.mark.timeout(1800)
def test_kills_at_random_moments_end_in_the_very_same_package(tmp_path: Path, kills: int) -> None:
    (tmp_path / "plan.yaml").write_text(CLASSIFIER)
    (tmp_path / "network.py").write_text(NETWORK)
    torch.manual_seed(0)
    write_weights(
        FactorySource("network:network", (), str(tmp_path)).build().state_dict(), tmp_path / "original.safetensors"
    )
    expect_the_same_bytes(tmp_path, kills)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_while_models_are_given_up_end_in_the_very_same_package(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(f"disk: 1MB\n{CLASSIFIER}")
    (tmp_path / "network.py").write_text(NETWORK)
    torch.manual_seed(0)
    write_weights(
        FactorySource("network:network", (), str(tmp_path)).build().state_dict(), tmp_path / "original.safetensors"
    )
    expect_the_same_bytes(tmp_path, 20)


@KILLS
@pytest.mark.timeout(1800)
def test_kills_inside_gptq_end_in_the_very_same_checkpoint(tmp_path: Path, real: Path, kills: int) -> None:
    (tmp_path / "plan.yaml").write_text(LANGUAGE_MODEL.replace("${real}", str(real.resolve())))
    expect_the_same_bytes(tmp_path, kills)


def expect_the_same_bytes(folder: Path, kills: int) -> None:
    digest, seconds = undisturbed(folder)
    ends = kill_and_resume(folder, seconds, kills)
    assert {end for _, end in ends} == {digest}
    assert sum(code == KILLED for code, _ in ends) >= kills * 3 // 4  # they really were killed on the way
