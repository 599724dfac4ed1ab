"""The model before pass 1, in the store under the hash of its weights: what every row is compared to."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

from squeeze.data.sources import DigitsData
from squeeze.errors import ModelError, PlanError
from squeeze.models.base import Model
from squeeze.models.language.from_gguf.convert import convert
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.source import BuiltinSource, FactorySource
from squeeze.models.spec import ModelSpec
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context
from squeeze.passes.distill.finetune import Finetune
from squeeze.progress import Progress
from squeeze.references import resolve
from squeeze.run.stored import StoredModel, read_model, write_model
from squeeze.store import Store
from squeeze.sums import file_sum
from squeeze.versions import source_digest
from squeeze.work import temporary_folder

TRAINING = Finetune(epochs=12, optimizer="sgd", learning_rate=0.05, batch_size=64)  # trains the builtin digits network


def keep_original(model: Model, store: Store, code_folder: str | None) -> StoredModel:
    """Put a model into the store and read it back: what is scored is what is stored."""
    inputs = {"files": _digest(model), "code": _code(model, code_folder)}
    read = partial(read_model, code_folder=code_folder)
    return store.cached("original", inputs, lambda folder: _write(folder, model), read)


def read_original(
    spec: ModelSpec | None, root: Path, shape: tuple[int, ...] | None, store: Store, threads: int, progress: Progress
) -> Model:
    """The model that a plan names.

    Raises:
        PlanError: the plan names none.
        ModelError: it cannot be read.
    """
    if spec is None:
        raise PlanError("the plan names no model, and none was given")
    if spec.kind == "builtin" and spec.weights is None:
        return trained_builtin(spec.reference, store, threads, progress)
    if spec.kind == "gguf":
        return converted(root / spec.reference, spec.dtype, store)
    return spec.read(root, shape)


def converted(file: Path, dtype: str | None, store: Store) -> LanguageModel:
    """A .gguf file as shards, made once and kept in the store."""
    if not file.is_file():
        raise ModelError(f"{file}: no such file; a .gguf file would do")
    inputs = {"file": file_sum(file), "dtype": dtype}
    return store.cached("gguf", inputs, lambda folder: convert(file, folder, dtype), LanguageModel, file.name)


def trained_builtin(name: str, store: Store, threads: int, progress: Progress) -> Model:
    """A builtin network, trained once on its own data and kept in the store."""
    source = BuiltinSource(name)
    inputs = {"name": name, "training": TRAINING.options(), "threads": threads}

    def train(folder: Path) -> None:
        progress.say(f"training {name} once; it is kept in {store.folder}")
        import torch

        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = TorchModel(source.build(), source, source.inputs())
        data = DigitsData(builtin="digits", split="train").open(folder)
        trained = TRAINING.run(model, Context(train_data=data, threads=threads, progress=progress))
        write_model(folder, trained, {}, {})

    stored = store.cached("builtin", inputs, train, partial(read_model, code_folder=None), f"builtin {name}")
    return stored.model


def _write(folder: Path, model: Model) -> None:
    write_model(folder, model, {}, {})


def _digest(model: Model) -> dict[str, str]:
    """sha256 of every file that the model is stored as."""
    with temporary_folder("original") as folder:
        model.save(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _code(model: Model, code_folder: str | None) -> Any:
    """The digest of the user's own factory: the same weights in other code are another model."""
    source = getattr(model, "source", None)
    if not isinstance(source, FactorySource):
        return None
    return source_digest(resolve(source.reference, code_folder))
