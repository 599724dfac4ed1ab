"""Decoders pruned to the same number of parameters: ours beside what users would do, perplexity with paired intervals.

    python benchmarks/pruning_language.py --model FOLDER|FILE.gguf --calibrate TEXT --evaluate TEXT [--parameters 0.75]
        [--length 512 --samples 64 --scored 64] [--only prune_width wanda-sp ...]
        [--recover TEXT --steps 100]
    python benchmarks/pruning_language.py --real FOLDER

prune_width, prune_depth   ours, by their defaults
depth-maps                 prune_depth with replace: linear, fitted to the samples behind --depth-samples; after
                           prune_depth it takes its losses, and its time is that of the maps
width-hidden, width-all    prune_width with parts: [heads, hidden], and [intermediate, heads, hidden]
magnitude                  MLP channels of the smallest weights leave, no data (as many in every block, as all below)
wanda-sp                   by weights times inputs, nothing made up for (Sun et al., 2023, arXiv:2306.11695)
flap                       by weights times the spread of inputs, their means made up for by a bias (An et al., 2023,
                           arXiv:2312.11983), whose allocation over layers a stock config cannot say
shortgpt                   blocks whose output is most like their input leave (Men et al., 2024, arXiv:2403.03853)

With ``--recover`` a second row of each is what distillation from the original makes of it: the same text, order, steps
and options for all. Without, nothing is trained. Blocks are whole, so a model of fewer blocks may be a little smaller
than was allowed; each row says how many parameters it has. The ratio is to prune_width's perplexity, over the same
sequences, documents as units.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _inputs import Arguments, open_model, open_text, positive, run, text_file
from torch import Tensor
from torch.nn import functional

from squeeze.algorithms.importance import least_important
from squeeze.blocks.watch import InputWatch, Weight
from squeeze.cli.terminal import LineProgress
from squeeze.comparison import delta_of
from squeeze.data.overlap import without_overlap
from squeeze.evaluate.perplexity import Perplexity
from squeeze.evaluate.tokens import Reference, score_tokens
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.rewriter import Rewriter
from squeeze.models.language.skeleton import Skeleton
from squeeze.passes.base import Context
from squeeze.passes.distill.distill import Distill
from squeeze.passes.prune.losses import LOSSES
from squeeze.passes.prune.prune_depth import PruneDepth
from squeeze.passes.prune.prune_width import PruneWidth
from squeeze.progress import Progress
from squeeze.store import Journal
from squeeze.surgery.depth import write_shallow
from squeeze.surgery.goal import Goal, units_within
from squeeze.surgery.widths import Widths

CHUNK_TOKENS = 4096
TRAINED_LENGTH, BATCH = 256, 8  # of --recover: tokens of a sequence, sequences of a step
ALIGN = 32  # prune_width's
HIDDEN_ALIGN = 6  # without intermediate channels to fill up with, larger steps of SmolLM2's hidden size miss the goal
Score = Callable[
    [Tensor, Tensor, Tensor], Tensor
]  # columns [out, channels], mean and mean square of inputs: [channels]


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="pruning-") as folder:
        Bench(options, Path(folder)).run()


def arguments() -> argparse.Namespace:
    parser = Arguments(description=__doc__.splitlines()[0])
    parser.add_language_model("calibrate", "evaluate")
    parser.add_argument("--parameters", type=float, default=0.75, help="share of the whole model's that may stay")
    parser.add_sequences(length=512, samples=64, scored=64)
    parser.add_argument("--depth-samples", type=positive, default=16, help="sequences that prune_depth's losses are of")
    parser.add_argument("--recover", type=text_file, help="a text that the original teaches each of them on")
    parser.add_argument("--steps", type=positive, default=100, help="of --recover, 8 sequences each")
    parser.add_argument("--only", nargs="+", choices=CANDIDATES, default=list(CANDIDATES))
    return parser.language_model()


class Bench:
    """The model, its texts, and the scores of what becomes of it."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.model = open_model(options.model, folder)
        self.calibrate = open_text(options.calibrate, self.model, options.length, options.samples)
        self.evaluate = open_text(options.evaluate, self.model, options.length, options.scored)
        self.goal = f"{100 * options.parameters:g} %"
        self.tokens = torch.from_numpy(self.calibrate.tokens)

    def run(self) -> None:
        (hidden := self.folder / "original").mkdir()
        scores = {"original": score_tokens(self.model, self.evaluate, hidden, None, Progress(), "original").nll.mean(1)}
        reference = Reference(self.model, hidden)
        print(f"{'':<14}{'parameters':>13}{'perplexity':>12}{'to prune_width':>27}{'KL':>9}{'process':>10}")
        print(f"{'original':<14}{self.model.parameters():>13,}{np.exp(scores['original'].mean()):>12.3f}", flush=True)
        taught: dict[str, np.ndarray] = {}
        for name in self.options.only:
            (own := self.folder / name).mkdir()
            began = time.perf_counter()
            model = CANDIDATES[name](self, own)
            self.show(name, model, reference, time.perf_counter() - began, scores)
            if self.options.recover:
                began = time.perf_counter()
                model = self.recovered(model, own)
                heading = f"  + {self.options.steps} steps"
                self.show(name, model, reference, time.perf_counter() - began, taught, heading)

    def show(
        self,
        name: str,
        model: LanguageModel,
        reference: Reference,
        took: float,
        scores: dict[str, np.ndarray],
        heading: str = "",
    ) -> None:
        """The row of a model, whose scores join those that it is compared with."""
        (own := self.folder / f"scores {name}{heading}").mkdir()
        new = score_tokens(model, self.evaluate, own, reference, Progress(), name)
        scores[name] = new.nll.mean(1)
        row = f"{heading or name:<14}{model.parameters():>13,}{np.exp(scores[name].mean()):>12.3f}"
        print(f"{row}{self.ratio(scores, name):>27}{new.kl.mean():>9.4f}{took:>8.0f} s", flush=True)

    def ratio(self, scores: dict[str, np.ndarray], name: str) -> str:
        if "prune_width" not in scores or name == "prune_width":
            return ""
        delta = delta_of(Perplexity(), scores[name], scores["prune_width"], self.evaluate.documents, same=False)
        low, high = delta.ratio_interval or (float("nan"), float("nan"))
        return f"x {delta.ratio:.3f} [{low:.3f}, {high:.3f}]"

    def recovered(self, model: LanguageModel, folder: Path) -> LanguageModel:
        """The same model after a little distillation."""
        data = without_overlap(open_text(self.options.recover, self.model, TRAINED_LENGTH, None), self.evaluate)
        (own := folder / "recovered").mkdir()
        context = Context(
            train_data=data, original=lambda: self.model, journal=Journal(own), threads=torch.get_num_threads(),
            progress=LineProgress(),
        )  # fmt: skip
        return Distill(steps=self.options.steps, batch_size=BATCH).run(model, context)

    def passed(self, pass_: Any, folder: Path) -> LanguageModel:
        result: LanguageModel = pass_.run(self.model, Context(calibration_data=self.calibrate, journal=Journal(folder)))
        return result


def by_score(score: Score, bias: bool = False) -> Callable[[Bench, Path], LanguageModel]:
    """MLP channels of the lowest scores leave, as many in every block; inputs are the dense model's."""

    def cut(bench: Bench, folder: Path) -> LanguageModel:
        model = bench.model
        widths = Widths(model.skeleton, model.folder, ("intermediate",))
        units = units_within(widths, Goal("parameters", bench.goal), widths.parameters, ALIGN)
        changes = widths.changes(units) | ({"mlp_bias": True} if bias else {})
        narrow = Skeleton.built(model.folder, dict(model.skeleton.values) | changes)
        rewriter = Rewriter(model, folder / "model", changes, narrow)
        walk = model.walk(bench.tokens, max(1, CHUNK_TOKENS // bench.options.length))
        for index in range(model.blocks):
            cuts = widths.cuts(index)["intermediate"]
            with model.block(index) as block:
                down = cuts[0].name
                mean, square = moments(walk, index, Weight(down), block)
                W = block.get_parameter(down).data.float()
                removed = least_important(score(W, mean, square), W.shape[1] - units["intermediate"])
                remaining = torch.tensor(sorted(set(range(W.shape[1])) - set(removed)))
                new = {each.name: each.of(block.get_parameter(each.name).data, remaining) for each in cuts}
                if bias:
                    outputs = [(each.name.replace("weight", "bias"), len(new[each.name])) for each in cuts]
                    new |= {name: torch.zeros(size, dtype=model.skeleton.dtype) for name, size in outputs}
                    new[down.replace("weight", "bias")] = (W[:, removed] @ mean[removed]).to(model.skeleton.dtype)
                rewriter.put_block(index, new, {})
        return rewriter.finish()

    return cut


def moments(walk: Any, index: int, weight: Weight, block: Any) -> tuple[Tensor, Tensor]:
    """Mean and mean square of what goes into a weight, ``[in]`` each; the walk goes on to the next block."""
    sums: list[Tensor] = []
    count = 0

    def see(_: Weight, value: Tensor) -> None:
        nonlocal count
        flat = value.reshape(-1, value.shape[-1]).double()
        sums.append(torch.stack([flat.sum(0), flat.square().sum(0)]))
        count += len(flat)

    with InputWatch(block, [weight], see):
        walk.through(index)
    mean, square = (torch.stack(sums).sum(0) / count).float()
    return mean, square


def shortgpt(bench: Bench, folder: Path) -> LanguageModel:
    """Block influence: one minus the mean cosine between what goes into a block and what comes out."""
    model = bench.model
    walk = model.walk(bench.tokens, max(1, CHUNK_TOKENS // bench.options.length), wide=True)
    influence = []
    for index in range(model.blocks):
        before = walk.hidden.clone()
        with model.block(index, wide=True):
            walk.through(index)
        influence.append(1 - float(functional.cosine_similarity(before, walk.hidden, dim=-1).mean()))
    count = PruneDepth(parameters=bench.goal)._count(model)
    removed = set(least_important(torch.tensor(influence), count))
    return write_shallow(model, [index for index in range(model.blocks) if index not in removed], folder / "model")


def depth_maps(bench: Bench, folder: Path) -> LanguageModel:
    """Blocks that are replaced by linear maps; prune_depth's losses are not measured twice."""
    measured = bench.folder / "prune_depth" / f"{LOSSES}.safetensors"
    if measured.exists():
        shutil.copy(measured, folder)
    samples = bench.options.depth_samples
    pass_ = PruneDepth(parameters=bench.goal, samples=samples, replace="linear", replace_samples=bench.options.samples)
    return bench.passed(pass_, folder)


CANDIDATES: dict[str, Callable[[Bench, Path], LanguageModel]] = {
    "prune_width": lambda bench, folder: bench.passed(PruneWidth(parameters=bench.goal), folder),
    "width-hidden": lambda bench, folder: bench.passed(
        PruneWidth(parameters=bench.goal, parts=("heads", "hidden"), align=HIDDEN_ALIGN), folder
    ),
    "width-all": lambda bench, folder: bench.passed(
        PruneWidth(parameters=bench.goal, parts=("intermediate", "heads", "hidden")), folder
    ),
    "prune_depth": lambda bench, folder: bench.passed(
        PruneDepth(parameters=bench.goal, samples=bench.options.depth_samples), folder
    ),
    "depth-maps": depth_maps,
    "magnitude": by_score(lambda W, mean, square: W.square().sum(0)),
    "wanda-sp": by_score(lambda W, mean, square: W.square().sum(0) * square),
    "flap": by_score(lambda W, mean, square: W.square().sum(0) * (square - mean.square()), bias=True),
    "shortgpt": shortgpt,
}


if __name__ == "__main__":
    run(main)
