"""Tiny random BERTs in Hugging Face folders, a tokenizer of letters, and sentences of two classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from encoder_world import write_sentences
from language_world import write_tokenizer
from torch import nn

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 160,
    "max_position_embeddings": 64,
}
NAMES = {0: "begins", 1: "ends"}
LATENCY = ", {latency: {seconds: 0.05, sessions: 4}}"
PLAN = f"""\
model: {{hf: bert}}
data:
  calibrate: {{sentences: train.tsv, samples: 16}}
  evaluate: {{sentences: dev.tsv, length: 32}}
metrics: [top1, kl, flips, size{LATENCY}]
passes:
  - pass: export_onnx
  - pass: quantize_dynamic
targets: [{{target: cpu}}]
"""


def write_bert(folder: Path, kind: str = "BertForSequenceClassification", **changes: Any) -> Path:
    """A model of that class whose weights are larger than freshly initialized ones, and its tokenizer."""
    import transformers

    torch.manual_seed(0)
    module = getattr(transformers, kind)(transformers.BertConfig(**SIZES | {"id2label": NAMES} | changes))
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter.data, 0.0, 0.15)
    module.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_pooling(folder: Path, mode: str = "mean_tokens", *more: str) -> None:
    """The files in which sentence-transformers says how tokens become an embedding."""
    steps = [("", "Transformer"), ("1_Pooling", "Pooling"), *((f"{2 + n}", name) for n, name in enumerate(more))]
    written = [{"path": path, "type": f"sentence_transformers.models.{name}"} for path, name in steps]
    (folder / "modules.json").write_text(json.dumps(written))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling/config.json").write_text(json.dumps({f"pooling_mode_{mode}": True}))


def write_text_world(folder: Path, **changes: Any) -> Path:
    """``bert``, sentences and ``plan.yaml``."""
    write_bert(folder / "bert", **changes)
    write_sentences(folder)
    (folder / "plan.yaml").write_text(PLAN)
    return folder
