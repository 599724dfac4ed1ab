"""A language model with half of its weights zero: SparseGPT, Wanda and magnitude, perplexity with paired intervals.

    python benchmarks/sparsity.py [--real FOLDER | --model FOLDER|FILE.gguf --calibrate TEXT --evaluate TEXT]
        [--length 512 --samples 64 --scored 64] [--goals 0.5 2:4]

prose6M on its own domain's texts, unless others are named. Nothing is trained; the embedding and the head stay dense.
The ratio is to sparsegpt's perplexity at the same goal, over the same sequences, documents as units. Files are as large
as before, and as slow.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _inputs import Arguments, open_model, open_text, run

from squeeze.comparison import delta_of
from squeeze.data.text import TokenDataset
from squeeze.evaluate.perplexity import Perplexity
from squeeze.evaluate.tokens import Reference, score_tokens
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.prune.sparsify import Sparsify
from squeeze.progress import Progress
from squeeze.store import Journal

METHODS = ("sparsegpt", "wanda", "magnitude")


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="sparsity-") as name:
        folder = Path(name)
        model = open_model(options.model, folder)
        calibrate = open_text(options.calibrate, model, options.length, options.samples)
        evaluate = open_text(options.evaluate, model, options.length, options.scored)
        (kept := folder / "original").mkdir()
        dense = score_tokens(model, evaluate, kept, None, Progress(), "original").nll.mean(1)
        print(f"original {np.exp(dense.mean()):.3f}, over {evaluate.tokens.size:,} tokens", flush=True)
        for goal in options.goals:
            compare(model, goal, calibrate, evaluate, folder)


def arguments() -> argparse.Namespace:
    parser = Arguments(description=__doc__.splitlines()[0])
    parser.add_language_model("calibrate", "evaluate")
    parser.add_argument("--length", type=int, default=512, help="tokens in a sequence")
    parser.add_argument("--samples", type=int, default=64, help="calibration sequences")
    parser.add_argument("--scored", type=int, default=64, help="evaluation sequences")
    parser.add_argument("--goals", nargs="+", type=goal_of, default=[{"ratio": 0.5}, {"pattern": "2:4"}])
    return parser.language_model()


def goal_of(text: str) -> dict[str, Any]:
    """``0.5`` is a ratio, ``2:4`` a pattern."""
    goal: dict[str, Any] = {"pattern": text} if ":" in text else {"ratio": float(text)}
    Sparsify(**goal)  # a ValueError where it is neither
    return goal


def compare(
    model: LanguageModel, goal: dict[str, Any], calibrate: TokenDataset, evaluate: TokenDataset, folder: Path
) -> None:
    """One line per method."""
    reference = Reference(model, folder / "original")
    (asked,) = goal.values()
    best: np.ndarray | None = None
    for method in METHODS:
        (own := folder / f"{method}-{str(asked).replace(':', '-')}").mkdir()
        context = Context(calibration_data=calibrate, journal=Journal(own))
        made = Sparsify(method=method, **goal).run(model, context)
        scored = score_tokens(made, evaluate, own, reference, Progress(), method)
        loss = scored.nll.mean(1)
        best = loss if best is None else best
        zeros = context.facts["sparsity"]["share"]
        print(
            f"{asked!s:>4} {method:<10} zeros {100 * zeros:6.2f} %  perplexity {np.exp(loss.mean()):9.3f}  "
            f"KL {scored.kl.mean():.4f}  {ratio(loss, best, evaluate)}",
            flush=True,
        )


def ratio(loss: np.ndarray, best: np.ndarray, evaluate: TokenDataset) -> str:
    if loss is best:
        return ""
    delta = delta_of(Perplexity(), loss, best, evaluate.documents, same=False)
    low, high = delta.ratio_interval or (float("nan"), float("nan"))
    return f"x {delta.ratio:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    run(main)
