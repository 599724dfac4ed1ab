"""A student of 5 % of a text, chosen by ``select``, beside 5 % and 20 % by chance and all of it, in as many steps.

    python benchmarks/chosen_data.py [--real FOLDER] [--steps 250] [--seeds 3] [--threads 2]

The student is prose6M at 70 % of its parameters (``prune_width``), the teacher the original, the text a sample of what
prose6M was trained on. Learning rate, steps and evaluation are the same for all; the seed decides what chance takes,
where clusters begin, and the order. KL divergence from the original and the next token's loss on text that none has
seen, differences paired by document with their 95 % intervals. Above 0: what was chosen teaches worse than the other.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from _inputs import run
from _teaching import BATCH, CALIBRATE, HELD_OUT, TRAIN, arguments, compare, prose, score, show

from squeeze.cli.terminal import LineProgress
from squeeze.data.overlap import without_overlap
from squeeze.data.select import Select
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.distill.distill import Distill
from squeeze.passes.prune.prune_width import PruneWidth
from squeeze.store import Journal

CALIBRATION = 64  # sequences that the student is pruned on
CHANCE = {"duplicates": "keep", "quality": "any", "cover": "chance"}
CANDIDATES = {
    "chosen 5 %": Select(share="5 %"),
    "chance 5 %": Select(share="5 %", **CHANCE),  # type: ignore[arg-type]  # pydantic reads them
    "chance 20 %": Select(share="20 %", **CHANCE),  # type: ignore[arg-type]
    "all": None,
}


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    torch.set_num_threads(options.threads)
    original = LanguageModel(options.real / "models" / "prose6M")
    held_out = prose(options.real, HELD_OUT, options.sequences)
    with tempfile.TemporaryDirectory() as work:
        student = narrow(original, options, Path(work))
        show(f"before, {student.parameters() / original.parameters():.1%} of the parameters",
             score(student, original, held_out))  # fmt: skip
        for seed in range(options.seeds):
            scores = {name: taught(name, seed, student, original, options, Path(work)) for name in CANDIDATES}
            for other in list(CANDIDATES)[1:]:
                compare(scores, "chosen 5 %", other, held_out)


def narrow(original: LanguageModel, options: argparse.Namespace, folder: Path) -> LanguageModel:
    """What all of them train."""
    (own := folder / "narrow").mkdir()
    text = prose(options.real, CALIBRATE, CALIBRATION)
    context = Context(threads=options.threads, calibration_data=text, journal=Journal(own))
    return PruneWidth(parameters="70 %").run(original, context)


def taught(
    name: str, seed: int, student: LanguageModel, original: LanguageModel, options: argparse.Namespace, folder: Path
) -> np.ndarray:
    """The scores of a student that has learnt from one part of the text."""
    held_out = prose(options.real, HELD_OUT, options.sequences)
    text = without_overlap(prose(options.real, TRAIN, None, CANDIDATES[name], seed), held_out)
    (own := folder / f"{name} {seed}").mkdir()
    context = Context(
        seed, options.threads, None, text, lambda: LanguageModel(original.folder), progress=LineProgress(),
        journal=Journal(own),
    )  # fmt: skip
    began = time.monotonic()
    model = Distill(steps=options.steps, batch_size=BATCH, learning_rate=options.rate).run(student, context)
    scores = score(model, original, held_out)
    show(f"seed {seed}, {name}, {len(text):,} sequences ({time.monotonic() - began:.0f} s)", scores)
    return scores


if __name__ == "__main__":
    run(main)
