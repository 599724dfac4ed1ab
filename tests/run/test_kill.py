"""Killed at any moment, the same command goes on and ends with the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from killing import KILLED, kill_and_resume, undisturbed

from squeeze.models.source import BuiltinSource
from squeeze.models.weights import write_weights

KILLS = pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.slow)])
CLASSIFIER = """
model: {builtin: digits-cnn, weights: original.safetensors}
threads: 1
data:
  train: {builtin: digits, split: train, samples: 256}
  calibrate: {builtin: digits, split: calibrate, samples: 64}
  evaluate: {builtin: digits, split: evaluate, samples: 128}
metrics: [top1, kl, size, parameters]
passes:
  - {pass: prune_channels, macs: 50 %}
  - {pass: distill, epochs: 5, batch_size: 32}
  - {pass: export_onnx}
  - {pass: quantize_static}
targets: [{target: cpu}]
"""
LANGUAGE_MODEL = """
model: {hf: "${real}/models/stories260K/hf"}
threads: 1
data:
  calibrate: {text: "${real}/data/prose/calibrate.txt", length: 64, samples: 32}
  evaluate: {text: "${real}/data/text/tinystories_sample.txt", length: 64}
metrics: [size]
passes:
  - {pass: gptq, bits: 4, group_size: 4}
"""


@KILLS
@pytest.mark.timeout(1800)
def test_kills_at_random_moments_end_in_the_very_same_package(tmp_path: Path, kills: int) -> None:
    (tmp_path / "plan.yaml").write_text(CLASSIFIER)
    torch.manual_seed(0)
    write_weights(BuiltinSource("digits-cnn").build().state_dict(), tmp_path / "original.safetensors")
    expect_the_same_bytes(tmp_path, kills)


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
