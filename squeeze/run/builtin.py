"""A builtin network, trained once on its own data and kept in the store."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from squeeze.data.sources import DigitsData
from squeeze.models.base import Model
from squeeze.models.source import BuiltinSource
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context
from squeeze.passes.distill.finetune import Finetune
from squeeze.progress import Progress
from squeeze.run.stored import read_model, write_model
from squeeze.store import Store

TRAINING = Finetune(epochs=12, optimizer="sgd", learning_rate=0.05, batch_size=64)


def trained_builtin(name: str, store: Store, threads: int, progress: Progress) -> Model:
    """The network by its name; whoever asks first waits for its training."""
    source = BuiltinSource(name)
    inputs = {"name": name, "training": TRAINING.options(), "threads": threads}

    def train(folder: Path) -> None:
        progress.say(f"training {name} once; it is kept in {store.folder}")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = TorchModel(source.build(), source, source.inputs())
        data = DigitsData(builtin="digits", split="train").open(folder)
        trained = TRAINING.run(model, Context(train_data=data, threads=threads, progress=progress))
        write_model(folder, trained, {}, {})

    stored = store.cached("builtin", inputs, train, partial(read_model, code_folder=None), f"builtin {name}")
    return stored.model
