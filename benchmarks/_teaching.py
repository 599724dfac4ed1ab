"""What benchmarks of distillation share: texts of prose6M's domain, scores of students, differences by document."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from _inputs import Arguments, positive
from torch.nn import functional

from squeeze.algorithms.stats import mean_by_unit
from squeeze.data.select import Select
from squeeze.data.text import TextData, TokenDataset
from squeeze.models.language.language_model import LanguageModel

LENGTH, BATCH = 256, 8
TRAIN, HELD_OUT, CALIBRATE = "train_sample.jsonl.gz", "evaluate.txt", "calibrate.txt"


def arguments(description: str) -> argparse.Namespace:
    """Of a benchmark that trains students on prose6M's texts."""
    return parser_of(description).parse_args()


def parser_of(description: str) -> Arguments:
    """For a benchmark with arguments of its own beside these."""
    parser = Arguments(description=description)
    parser.add_real()
    parser.add_argument("--steps", type=positive, default=250)
    parser.add_argument("--seeds", type=positive, default=3)
    parser.add_argument("--sequences", type=positive, default=200, help="of held-out text")
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--threads", type=positive, default=2)
    return parser


def prose(
    real: Path, file: str, samples: int | None = None, select: Select | None = None, seed: int = 0
) -> TokenDataset:
    """Sequences of one of prose6M's texts."""
    path = str((real / "data" / "prose" / file).resolve())
    source = TextData(text=path, length=LENGTH, samples=samples, select=select, seed=seed)
    return source.open(real, real / "models" / "prose6M")


@torch.no_grad()
def score(model: LanguageModel, original: LanguageModel, data: TokenDataset) -> np.ndarray:
    """``[sequences, 2]``: KL divergence from the original and the next token's loss, nats a token."""
    ours, theirs, rows = model.whole().float(), original.whole().float(), []
    for tokens in torch.from_numpy(data.tokens):
        student, teacher = (module(input_ids=tokens[None]).logits[0, :-1].log_softmax(-1) for module in (ours, theirs))
        kl = functional.kl_div(student, teacher, log_target=True, reduction="batchmean")
        rows.append((kl.item(), functional.nll_loss(student, tokens[1:]).item()))
    return np.array(rows)


def show(name: str, values: np.ndarray) -> None:
    """One line of a model's scores."""
    print(f"{name}: KL {values[:, 0].mean():.4f}, loss {values[:, 1].mean():.4f}", flush=True)


def compare(scores: dict[str, np.ndarray], one: str, other: str, data: TokenDataset) -> None:
    """Two lines: by how much the first is above the second, with 95 % intervals over documents."""
    for place, what in enumerate(("KL", "loss")):
        difference = mean_by_unit((scores[one] - scores[other])[:, place], data.units)
        ends = difference.interval()
        assert ends is not None, "there are many documents"
        print(f"  {what}, {one} - {other}: {difference.value:+.4f} [{ends.low:+.4f}, {ends.high:+.4f}]", flush=True)
