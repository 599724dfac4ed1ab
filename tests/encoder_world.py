"""A tiny sentence encoder that nobody trained, sentences of two classes, and a plan to int8."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from language_world import write_tokenizer
from minilm import encoder
from safetensors.torch import save_file
from torch import nn

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 600,
    "max_position_embeddings": 64,
}
ARGUMENTS = json.dumps(SIZES).replace('"', "")
PLAN = f"""\
model: {{module: "minilm:encoder", weights: tiny.safetensors, arguments: {ARGUMENTS}}}
data:
  train: {{sentences: train.tsv, tokenizer: .}}
  calibrate: {{sentences: train.tsv, tokenizer: ., samples: 32}}
  evaluate: {{sentences: dev.tsv, tokenizer: .}}
metrics: [probe, cosine, size]
passes:
  - pass: export_onnx
  - {{pass: quantize_dynamic, smooth: true}}
targets: [{{target: cpu}}]
"""


def tiny_encoder() -> nn.Module:
    """Weights larger than freshly initialized ones, and one channel far larger than the others."""
    torch.manual_seed(0)
    result = encoder(**SIZES).eval()
    for name, parameter in result.named_parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter.data, 0.0, 0.15)
        elif name.endswith(".bias"):
            nn.init.normal_(parameter.data, 0.0, 0.02)  # equal ones would be stored once, under one name
        if "LayerNorm.weight" in name:
            parameter.data[3] = 12.0  # BERT's own: one channel far larger than the others
    return result


def write_sentences(folder: Path) -> None:
    """``train.tsv`` and ``dev.tsv``: class 0 is written in the first letters, class 1 in the last."""
    random = np.random.default_rng(0)
    for name, count in (("train", 120), ("dev", 60)):
        halves = [("abcde", 0), ("uvwxyz", 1)]
        lines = [f"{''.join(random.choice(list(letters), 9))}\t{label}" for letters, label in halves * (count // 2)]
        (folder / f"{name}.tsv").write_text("\n".join(lines))


def write_encoder_world(folder: Path, module: nn.Module) -> Path:
    """Weights, tokenizer, sentences and ``plan.yaml``."""
    save_file({name: value.clone() for name, value in module.state_dict().items()}, folder / "tiny.safetensors")
    write_tokenizer(folder)
    write_sentences(folder)
    (folder / "plan.yaml").write_text(PLAN)
    return folder
