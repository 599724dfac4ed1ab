"""Half the MACs of ResNet-20, trained back on 3,000 images: plain Torch-Pruning against Squeeze's plan.

    python benchmarks/pruning_vs_torch_pruning.py [--real FOLDER] [--epochs 10] [--seed 0] [--threads 1]

Torch-Pruning is used as it comes: it cannot follow the zero-padded shortcuts, so only the channels inside each block
are cut, by magnitude, to whatever widths the ratio gives. It is then trained by the very loop that trains ours (same
images, epochs, batch size, learning rate, augmentation, seed), once with labels and once with distillation. Ours is
``plans/resnet20-cifar10-prune.yaml`` up to the export. All are scored on the 4,998 JPEG test images, in float; each
difference has a paired 95 % bootstrap interval. Latency: ONNX Runtime, batch 1, alternating with the original.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
import torch_pruning
from _inputs import Arguments, positive, run

from squeeze.algorithms.stats import mean_by_unit
from squeeze.api import load
from squeeze.cli.terminal import LineProgress
from squeeze.data.base import Dataset
from squeeze.evaluate.latency import compare, paired, stopwatch
from squeeze.evaluate.metrics import Latency
from squeeze.models.base import Batch
from squeeze.models.onnx_model import OnnxModel
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context
from squeeze.passes.distill.distill import Distill
from squeeze.passes.distill.finetune import Finetune
from squeeze.passes.export.export_onnx import ExportOnnx

HERE = Path(__file__).parent
PLAN = HERE.parent / "plans" / "resnet20-cifar10-prune.yaml"
PLAIN_RATIO = 0.51  # widths 7, 15 and 31: 2.1 times fewer MACs
SHARED = ("epochs", "batch_size", "learning_rate", "weight_decay", "schedule", "warm_up", "augment")


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    variables = {"real": str(options.real)}
    plan = load(PLAN, [f"passes.1.epochs={options.epochs}"], variables)
    prune, distill = (step.pass_ for step in plan.steps[:2])
    context = Context(
        seed=options.seed, threads=options.threads, train_data=plan.data["train"].open(plan.root),
        original=lambda: plan.model.read(plan.root), root=plan.root, progress=LineProgress(),
    )  # fmt: skip
    shared = {name: getattr(distill, name) for name in SHARED}
    plain = plainly_pruned(context.load_original())
    models = {
        "original": context.load_original(),
        "Torch-Pruning, not trained": copy.deepcopy(plain),
        "Torch-Pruning + fine-tuning": Finetune(**shared).run(copy.deepcopy(plain), context),
        "Torch-Pruning + distillation": Distill(**shared).run(copy.deepcopy(plain), context),
        "Squeeze": distill.run(prune.run(context.load_original(), context), context),
    }
    report(models, plan.data["evaluate"].open(plan.root), options.seconds)


def arguments() -> argparse.Namespace:
    parser = Arguments(description=__doc__.splitlines()[0])
    parser.add_real()
    parser.add_argument("--epochs", type=positive, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--threads", type=positive, default=1, help="of the training; latency is measured at 1 and at 2"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of each latency comparison")
    return parser.parse_args()


def plainly_pruned(model: TorchModel) -> TorchModel:
    """What its documentation shows, with every layer ignored that it cannot cut here."""
    inner = {f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(3)}
    modules = dict(model.module.named_modules())
    weighted = (torch.nn.Conv2d, torch.nn.Linear)
    ignored = [m for name, m in modules.items() if isinstance(m, weighted) and name not in inner]
    image = model.example().image
    torch_pruning.pruner.MagnitudePruner(
        model.module, image, importance=torch_pruning.importance.MagnitudeImportance(p=2), pruning_ratio=PLAIN_RATIO,
        ignored_layers=ignored,
    ).step()  # fmt: skip
    return model


def hits(model: TorchModel, data: Dataset) -> np.ndarray:
    """Right or wrong for each example, ``[examples]``."""
    right = [(model.predict(batch).argmax(1) == batch.labels).numpy() for batch in data.batches(250)]
    return np.concatenate(right).astype(np.float64)


def report(models: dict[str, TorchModel], data: Dataset, seconds: float) -> None:
    """One line per model, then ours against each of the others."""
    right = {name: hits(model, data) for name, model in models.items()}
    exported = {name: ExportOnnx().run(copy.deepcopy(model), Context()) for name, model in models.items()}
    print(f"{len(data)} test images; latency ratio = this / original, ONNX Runtime, batch 1, [95 % interval]")
    image = models["original"].example()
    for name, model in models.items():
        times = " ".join(latency(exported[name], exported["original"], image, threads, seconds) for threads in (1, 2))
        print(
            f"{name:30} top-1 {100 * right[name].mean():6.2f} %  {model.macs() / 1e6:6.2f} M MACs "
            f"{model.parameters():8,} parameters  {times}"
        )
    for name in models:
        if name != "Squeeze":
            print(f"Squeeze - {name:30} {difference(right['Squeeze'], right[name])}")


def latency(new: OnnxModel, old: OnnxModel, image: Batch, threads: int, seconds: float) -> str:
    opens = [lambda m=m: stopwatch(m.reopened().runner(image, threads)) for m in (new, old)]
    sessions = Latency().sessions
    comparison = paired(compare(*opens, seconds, sessions), compare(opens[1], opens[1], seconds, sessions).spread)
    interval = f"[{comparison.interval.low:.3f}, {comparison.interval.high:.3f}]"
    return f"{threads} thread{'s'[: threads - 1]}: {comparison.ratio:.3f} {interval}"


def difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    low, high = mean_by_unit(ours - theirs).interval() or (np.nan, np.nan)
    return f"{100 * (ours - theirs).mean():+.2f} points [{100 * low:+.2f}, {100 * high:+.2f}]"


if __name__ == "__main__":
    run(main)
