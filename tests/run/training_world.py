"""Small networks and texts, and a script that trains on them: what processes started together carry out."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from multiprocessing import current_process
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tiny import CLASSES
from torch import Tensor, distributed, nn

from squeeze.api import Plan, compress
from squeeze.data.base import Dataset
from squeeze.data.sentences import SentencesData
from squeeze.data.sources import NpzData
from squeeze.data.text import TokenDataset
from squeeze.errors import ModelError
from squeeze.models.base import InputSpec, Model
from squeeze.models.language import resident
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.source import FactorySource
from squeeze.models.spec import ModelSpec
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Pass
from squeeze.passes.distill.training import TrainingPass
from squeeze.training import loop
from squeeze.training.loop import Training


def with_batch_norm() -> nn.Sequential:
    """Without biases: those before a batch norm have no gradient but rounding, which AdamW makes as large as others."""
    first = [nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    second = [nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8, affine=False, momentum=None), nn.ReLU()]
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))


def with_dropout() -> nn.Sequential:
    features = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*features, nn.Dropout(0.5), nn.Linear(8, CLASSES))


def with_statistics() -> nn.Sequential:
    """Instance norm keeps statistics of a batch that nobody adds up."""
    norm = nn.InstanceNorm2d(8, track_running_stats=True)
    return nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))


class Branching(nn.Module):
    """Some weights are for images that begin bright, a tenth of them, and some for none."""

    def __init__(self) -> None:
        super().__init__()
        self.every, self.bright, self.none = (nn.Linear(108, CLASSES) for _ in range(3))

    def forward(self, image: Tensor) -> Tensor:
        rows = image.flatten(1)
        outputs: Tensor = self.every(rows)
        if rows.is_meta:
            return outputs
        bright = (rows[:, 0] > 0.9).nonzero()[:, 0]
        return outputs.index_add(0, bright, self.bright(rows[bright])) if len(bright) else outputs


class Failing(nn.Module):
    """Cannot compute in any process but the first."""

    def __init__(self) -> None:
        super().__init__()
        self.network = with_dropout()

    def forward(self, image: Tensor) -> Tensor:
        if self.training and current_process().name == "rank 1":
            raise ModelError("on purpose")
        outputs: Tensor = self.network(image)
        return outputs


def network(name: str) -> TorchModel:
    torch.manual_seed(0)
    source = FactorySource(f"training_world:{name}")
    return TorchModel(source.build(), source, (InputSpec("image", (3, 6, 6)),))


def world(folder: Path, model: str) -> tuple[Model, Dataset]:
    """A model and what it is trained on."""
    if model == "bert":
        return ModelSpec(hf=model).read(folder, None), SentencesData(sentences="train.tsv", tokenizer=model).open(
            folder
        )
    if not (folder / model).is_dir():
        return network(model), NpzData(npz="train.npz").open(folder)
    starts = np.arange(20)[:, None]
    return LanguageModel(folder / model), TokenDataset("counting", (starts + 3 * np.arange(16)[None]) % 128)


def script(
    folder: Path, name: str, pass_: TrainingPass, model: str, stop: int | None = None, before: Sequence[Pass] = ()
) -> None:
    """Train; then keep the weights and what the row says.

    Args:
        stop: The step before which process 0 is stopped, after a checkpoint.
        before: Passes that come first.
    """
    if stop is not None:
        _stop_before(stop)
    original, data = world(folder, model)
    plan = Plan([*before, pass_], metrics=(), threads=1)
    run = compress(plan, model=original, data={"train": data}, store=folder / name.partition("-")[0])
    result: Any = run.models[None]
    save_file(weights_of(result), folder / f"{name}.safetensors")
    row = run.ledger.rows[-1]
    (folder / f"{name}.json").write_text(json.dumps([row.facts, row.measured.get("processes")]))


def script_in_small_parts(*arguments: Any) -> None:
    """The same, two sequences at a time going through a language model."""
    resident.LOGITS_VALUES = 2 * 16 * 128
    script(*arguments)


def script_that_counts(folder: Path, *arguments: Any) -> None:
    """The same; then keep how many values of weights, gradients and state each process held in the last step."""
    held: dict[str, int] = {}
    step = torch.optim.AdamW.step

    def counting(optimizer: torch.optim.AdamW) -> None:
        step(optimizer)
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        held["weights"], held["gradients"] = (
            sum(map(_values, every)) for every in (weights, [w.grad for w in weights])
        )
        held["state"] = sum(_values(value) for state in optimizer.state.values() for value in state.values())

    torch.optim.AdamW.step = counting  # type: ignore[method-assign, assignment]
    try:
        script(folder, *arguments)
    finally:  # a process that helps ends inside
        (folder / f"held-{os.environ.get('RANK', 'alone')}.json").write_text(json.dumps(held))


def script_with_its_own_group(*arguments: Any) -> None:
    """The same, in a script that uses torch.distributed itself."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    script(*arguments)


def script_that_looks_around(*arguments: Any) -> None:
    """The same; nothing is left of it, and torch.distributed is there for whoever wants it."""
    script(*arguments)
    assert not distributed.is_initialized()
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)


def _values(tensor: Any) -> int:
    """Those that this process holds, without what is a single number."""
    own: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return own.numel() if tensor.dim() else 0


def weights_of(model: Any) -> dict[str, Tensor]:
    return {name: value.clone().contiguous() for name, value in model.resident().module.state_dict().items()}


def distance(folder: Path, one: str, other: str) -> float:
    """The largest difference of two values in the weights that two scripts kept."""
    first, second = (load_file(folder / f"{name}.safetensors") for name in (one, other))
    assert set(first) == set(second)
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


def _stop_before(step: int) -> None:
    loop.CHECKPOINT_SECONDS = -1.0
    one = Training._one

    def stopping(training: Training, *rest: Any) -> None:
        if training.position.step == step:
            raise KeyboardInterrupt
        one(training, *rest)

    Training._one = stopping  # type: ignore[method-assign, assignment]
