"""A teacher drawn once against the teacher itself and against the text alone: what a student of each has learnt.

    python benchmarks/cached_teacher.py [--real FOLDER] [--cached 12 64 256] [--steps 250] [--seeds 3] [--threads 2]

The student is prose6M with noise of half their spread in the matrices of its blocks. The same text, order, steps and
learning rate for all; KL divergence from the original and the next token's loss on text of the same domain that
none has seen, each difference paired by document with its 95 % interval; beside them, how far two seeds of the teacher
itself are apart, which is what another order makes. Bytes are of one token of training text.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from _inputs import run
from _teaching import BATCH, HELD_OUT, TRAIN, compare, parser_of, prose, score, show

from squeeze.algorithms.sampled_teacher import MOST_UNIQUE
from squeeze.cli.terminal import LineProgress
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.resident import ResidentLanguageModel
from squeeze.passes.base import Context
from squeeze.passes.distill.distill import Distill
from squeeze.passes.distill.finetune import Finetune
from squeeze.store import Store

NOISE = 0.5  # of a matrix's own standard deviation


def main() -> None:
    parser = parser_of(__doc__.splitlines()[0])
    parser.add_argument("--cached", type=unique, nargs="+", default=[12, 64, 256], help="different tokens a position")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = options.real / "models" / "prose6M"
    texts = {
        name: prose(options.real, file, samples)
        for name, file, samples in (("train", TRAIN, options.steps * BATCH), ("held", HELD_OUT, options.sequences))
    }
    shared = {"steps": options.steps, "batch_size": BATCH, "learning_rate": options.rate}
    drawn = {f"drawn {count}": Distill(**shared, cached=count) for count in options.cached}
    passes = {"teacher": Distill(**shared), **drawn, "text": Finetune(**shared)}
    original = LanguageModel(folder)
    with tempfile.TemporaryDirectory() as work:
        student = damaged(original, Path(work) / "student")
        show("before", score(student, original, texts["held"]))
        streamed = {}
        for seed in range(options.seeds):
            result = {}
            for name, pass_ in passes.items():
                began, store = time.monotonic(), Store(Path(work) / "store")
                context = Context(
                    seed, options.threads, None, texts["train"], lambda: LanguageModel(folder),
                    progress=LineProgress(), store=store, original_key="original",
                )  # fmt: skip
                result[name] = score(pass_.run(student, context), original, texts["held"])
                size = context.facts.get("teacher_bytes_per_token")
                message = f", {size} bytes a token of {4 * original.vocabulary:,} for all" if size else ""
                show(f"seed {seed}, {name} ({time.monotonic() - began:.0f} s{message})", result[name])
            for name in drawn:
                for other in ("teacher", "text"):
                    compare(result, name, other, texts["held"])
            streamed[f"teacher, seed {seed}"] = result["teacher"]
            if seed:
                compare(streamed, f"teacher, seed {seed}", "teacher, seed 0", texts["held"])


def unique(text: str) -> int:
    """As many different tokens as a pass would take."""
    if not text.isdecimal() or not 0 < int(text) <= MOST_UNIQUE:
        raise argparse.ArgumentTypeError(f"{text} is none; a whole number from 1 to {MOST_UNIQUE} would do")
    return int(text)


def damaged(model: LanguageModel, folder: Path) -> LanguageModel:
    """The same model with seeded noise in the matrices of its blocks."""
    resident, generator = ResidentLanguageModel(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for block in resident.blocks():
            for weight in block.parameters():
                if weight.dim() > 1:
                    weight += NOISE * weight.std() * torch.randn(weight.shape, generator=generator)
    return resident.commit(folder)


if __name__ == "__main__":
    run(main)
