"""The model before pass 1, in the store under the hash of its weights: what every row is compared to."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from squeeze.errors import ModelError, PlanError
from squeeze.models.base import Model
from squeeze.models.language.from_gguf.convert import convert
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.source import FactorySource
from squeeze.models.spec import ModelSpec, Shapes
from squeeze.progress import Progress
from squeeze.references import resolve
from squeeze.run.stored import StoredModel, read_model, write_model
from squeeze.store import Store
from squeeze.sums import file_sum
from squeeze.versions import source_digest
from squeeze.work import temporary_folder


def keep_original(model: Model, store: Store, code_folder: str | None) -> StoredModel:
    """Put a model into the store and read it back: what is scored is what is stored."""
    inputs = {"files": _digest(model), "code": _code(model, code_folder)}
    read = partial(read_model, code_folder=code_folder)
    return store.cached("original", inputs, lambda folder: _write(folder, model), read)


def read_original(
    spec: ModelSpec | None, root: Path, examples: Shapes | None, store: Store, threads: int, progress: Progress
) -> Model:
    """The model that a plan names.

    Raises:
        PlanError: the plan names none.
        ModelError: it cannot be read.
    """
    if spec is None:
        raise PlanError("the plan names no model, and none was given")
    if spec.kind == "builtin" and spec.weights is None:
        from squeeze.run.builtin import trained_builtin  # a training and its data, which other originals need not load

        return trained_builtin(spec.reference, store, threads, progress)
    if spec.kind == "gguf":
        return converted(root / spec.reference, spec.dtype, store)
    return spec.read(root, examples)


def converted(file: Path, dtype: str | None, store: Store) -> LanguageModel:
    """A .gguf file as a folder, made once and kept in the store."""
    if not file.is_file():
        raise ModelError(f"{file}: no such file; a .gguf file would do")

    def write(folder: Path) -> None:
        with temporary_folder("gguf") as work:
            convert(file, work, dtype)
            LanguageModel(work).save(folder)  # with the file itself, which the user may move

    return store.cached("gguf", {"file": file_sum(file), "dtype": dtype}, write, LanguageModel, file.name)


def _write(folder: Path, model: Model) -> None:
    write_model(folder, model, {}, {})


def _digest(model: Model) -> dict[str, str]:
    """sha256 of every file that the model is stored as."""
    with temporary_folder("original") as folder:
        model.save(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): file_sum(path) for path in files}


def _code(model: Model, code_folder: str | None) -> Any:
    """The digest of the user's own factory: the same weights in other code are another model."""
    source = getattr(model, "source", None)
    if not isinstance(source, FactorySource):
        return None
    return source_digest(resolve(source.reference, code_folder))
