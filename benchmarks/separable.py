"""ResNet-20 with separable convolutions, and of low rank, beside itself pruned to as many parameters.

    python benchmarks/separable.py [--real FOLDER] [--epochs 10] [--seed 0] [--threads 1]

``plans/resnet20-cifar10-separable.yaml`` up to the export, as it comes and distilled. The pruned network is the same
original, cut by prune_channels (taylor importance, all layers competing, residual streams included, widths of any
number) to the fewest parameters that are no fewer than the separable one's; ``low_rank`` has at most as many. All are
distilled by the very same pass: the plan's without its features, for which the outputs of stages would have to be as
wide as the teacher's. Top-1 in float on the 500 lossless and the 4,998 JPEG test images; a difference has the paired
95 % interval that the ledger gives such shares (Tango's).
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
from _inputs import Arguments, positive, run
from torch import nn

from squeeze.algorithms.proportions import paired_shares, share
from squeeze.api import load
from squeeze.cli.terminal import LineProgress
from squeeze.data.base import Dataset
from squeeze.data.sources import NpzData
from squeeze.errors import EffectError
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context
from squeeze.passes.prune.low_rank import LowRank
from squeeze.passes.prune.prune_channels import PruneChannels
from squeeze.plan.plan import Plan

PLAN = Path(__file__).parent.parent / "plans" / "resnet20-cifar10-separable.yaml"
HALVINGS = 7  # of the range in which the ratio of prune_channels is looked for


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    variables = {"real": str(options.real)}
    plan = load(PLAN, [f"passes.1.epochs={options.epochs}"], variables)
    separable, distill = (step.pass_ for step in plan.steps[:2])
    plain = distill.model_copy(update={"features": ()})
    context = Context(
        seed=options.seed, threads=options.threads, train_data=plan.data["train"].open(plan.root),
        calibration_data=plan.data["calibrate"].open(plan.root), original=lambda: plan.model.read(plan.root),
        root=plan.root, progress=LineProgress(),
    )  # fmt: skip
    original, table = context.load_original(), Table(evaluations(plan))
    table.row("original", original)
    raw = separable.run(copy.deepcopy(original), context)
    table.row("separable", raw)
    pruned = pruned_to(raw.parameters(), original, context)
    table.row("pruned", pruned)
    table.against("separable", "pruned")
    goal = f"{raw.parameters() / 1000:.3f}K"
    thin = LowRank(parameters=goal, align=1, exclude=separable.exclude).run(copy.deepcopy(original), context)
    table.row("low rank", thin)
    table.against("low rank", "pruned")
    table.row("separable, distilled", plain.run(raw, context))
    table.row("pruned, distilled", plain.run(pruned, context))
    table.against("separable, distilled", "pruned, distilled")
    table.row("low rank, distilled", plain.run(thin, context))
    table.against("low rank, distilled", "pruned, distilled")


def arguments() -> argparse.Namespace:
    parser = Arguments(description=__doc__.splitlines()[0])
    parser.add_real()
    parser.add_argument("--epochs", type=positive, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=positive, default=1)
    return parser.parse_args()


def pruned_to(parameters: int, original: TorchModel, context: Context) -> TorchModel:
    """The network that prune_channels makes with the fewest parameters that are no fewer than these."""
    low, high, best = 0.0, 1.0, None
    for _ in range(HALVINGS):
        ratio = (low + high) / 2
        try:
            result = PruneChannels(ratio=ratio, importance="taylor", align=1).run(copy.deepcopy(original), context)
        except EffectError:  # so much cannot be cut
            high = ratio
            continue
        if result.parameters() < parameters:
            high = ratio
        else:
            low, best = ratio, result
    assert best is not None
    return best


def evaluations(plan: Plan) -> dict[str, Dataset]:
    """The two sets of test images."""
    train = plan.data["train"]
    assert isinstance(train, NpzData)
    lossless = train.model_copy(update={"images": "x_test", "labels": "y_test"})
    return {"lossless": lossless.open(plan.root), "JPEG": plan.data["evaluate"].open(plan.root)}


class Table:
    """Lines that are printed as soon as they are known."""

    def __init__(self, data: dict[str, Dataset]) -> None:
        self.data = data
        self.right: dict[str, dict[str, np.ndarray]] = {}
        self.all_weights = 0
        counts = ", ".join(f"{len(one):,} {kind} images" for kind, one in data.items())
        print(f"top-1 [95 % interval] over {counts}", flush=True)

    def row(self, name: str, model: TorchModel) -> None:
        """A model; the first one is the original."""
        weights = convolution_parameters(model)
        self.all_weights = self.all_weights or weights
        self.right[name] = {kind: hits(model, one) for kind, one in self.data.items()}
        shares = "  ".join(f"{kind} {percent(values)}" for kind, values in self.right[name].items())
        print(
            f"{name:20} convolutions {weights:7,} ({self.all_weights / weights:4.2f}x fewer)  parameters "
            f"{model.parameters():7,}  {model.macs() / 1e6:5.2f} M MACs  {shares}",
            flush=True,
        )

    def against(self, ours: str, theirs: str) -> None:
        """How far one model is from another, image by image."""
        moved = [f"{kind} {difference(self.right[ours][kind], self.right[theirs][kind])}" for kind in self.data]
        print(f"{ours} - {theirs}: {'  '.join(moved)}", flush=True)


def convolution_parameters(model: TorchModel) -> int:
    """Weights and biases of all convolutions."""
    layers = [layer for layer in model.module.modules() if isinstance(layer, nn.Conv2d)]
    return sum(value.numel() for layer in layers for value in layer.parameters())


def hits(model: TorchModel, data: Dataset) -> np.ndarray:
    """Right or wrong for each example, ``[examples]``."""
    return np.concatenate([(model.predict(batch).argmax(1) == batch.labels).numpy() for batch in data.batches(250)])


def percent(right: np.ndarray) -> str:
    interval = share(right).interval()
    return f"{100 * right.mean():5.2f} % [{100 * interval.low:5.2f}, {100 * interval.high:5.2f}]"


def difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    interval = paired_shares(ours, theirs).interval()
    moved = 100 * (ours.mean() - theirs.mean())
    return f"{moved:+6.2f} points [{100 * interval.low:+6.2f}, {100 * interval.high:+6.2f}]"


if __name__ == "__main__":
    run(main)
