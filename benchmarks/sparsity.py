"""A language model with half of its weights zero: SparseGPT, Wanda and magnitude, perplexity with paired intervals.

    python benchmarks/sparsity.py [--real FOLDER | --model FOLDER|FILE.gguf --calibrate TEXT --evaluate TEXT]
        [--length 512 --samples 64 --scored 64] [--goals 0.5 2:4]

prose6M on its own domain's texts, unless others are named. Nothing is trained; the embedding and the head stay dense.
The last column is the ratio of a method's perplexity to sparsegpt's at the same goal, with its paired 95 % interval
over documents. The files are no smaller and no faster than the original's.
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
GOALS = "0.5 is half of the weights; 2:4 or 4:8 is that many zeros in every group of input channels"


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="sparsity-") as name:
        folder = Path(name)
        model = open_model(options.model, folder)
        calibrate = open_text(options.calibrate, model, options.length, options.samples)
        evaluate = open_text(options.evaluate, model, options.length, options.scored)
        (scores := folder / "original").mkdir()
        dense = score_tokens(model, evaluate, scores, None, Progress(), "original").nll.mean(1)
        print(f"original {np.exp(dense.mean()):.3f}, over {evaluate.tokens.size:,} tokens", flush=True)
        for goal in options.goals:
            compare(model, goal, calibrate, evaluate, folder)


def arguments() -> argparse.Namespace:
    parser = Arguments(description=__doc__.splitlines()[0])
    parser.add_language_model("calibrate", "evaluate")
    parser.add_sequences(length=512, samples=64, scored=64)
    parser.add_argument("--goals", nargs="+", type=goal_of, default=[{"ratio": 0.5}, {"pattern": "2:4"}], help=GOALS)
    return parser.language_model()


def goal_of(text: str) -> dict[str, Any]:
    """``0.5`` is a ratio, ``2:4`` a pattern."""
    try:
        goal: dict[str, Any] = {"pattern": text} if ":" in text else {"ratio": float(text)}
        Sparsify(**goal)
    except ValueError:  # no number, or not one that the pass takes
        raise argparse.ArgumentTypeError(f"{text} is no goal; a ratio between 0 and 1, 2:4 or 4:8 would be") from None
    return goal


def compare(
    model: LanguageModel, goal: dict[str, Any], calibrate: TokenDataset, evaluate: TokenDataset, folder: Path
) -> None:
    """Print one line per method."""
    reference = Reference(model, folder / "original")
    (text,) = map(str, goal.values())
    baseline: np.ndarray | None = None
    for method in METHODS:
        own = Path(tempfile.mkdtemp(dir=folder))
        context = Context(calibration_data=calibrate, journal=Journal(own))
        sparse = Sparsify(method=method, **goal).run(model, context)
        scored = score_tokens(sparse, evaluate, own, reference, Progress(), method)
        loss = scored.nll.mean(1)
        baseline = loss if baseline is None else baseline
        zeros = context.facts["sparsity"]["share"]
        print(
            f"{text:>4} {method:<10} zeros {100 * zeros:6.2f} %  perplexity {np.exp(loss.mean()):9.3f}  "
            f"KL {scored.kl.mean():.4f}  {ratio(loss, baseline, evaluate)}",
            flush=True,
        )


def ratio(loss: np.ndarray, baseline: np.ndarray, evaluate: TokenDataset) -> str:
    if loss is baseline:
        return ""
    delta = delta_of(Perplexity(), loss, baseline, evaluate.documents, same=False)
    low, high = delta.ratio_interval or (float("nan"), float("nan"))
    return f"x {delta.ratio:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    run(main)
