"""Models in the store: written with a pass's facts and measurements, read back by their form."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from squeeze.models.artifact import Artifact
from squeeze.models.base import Model
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.released import ReleasedModel
from squeeze.models.torch_model import TorchModel
from squeeze.versions import content_digest

MODEL, RECORD = "model", "record.json"
RELEASED = "released"  # in place of MODEL, where the weights were released


@dataclass(frozen=True)
class StoredModel:
    """One model of a run as it lies in the store.

    Args:
        make_again: Gives it with its weights, from the store or computed again.
    """

    key: str
    folder: Path
    model: Model
    facts: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    make_again: Callable[[], StoredModel] | None = field(default=None, compare=False)

    @property
    def is_released(self) -> bool:
        """Whether the store has released its weights; facts of it are still known."""
        return (self.folder / RELEASED).is_dir()

    def with_weights(self) -> StoredModel:
        """The model with its weights, computed again where the store has released them."""
        there = self.model.has_weights and not self.is_released
        return self if there or self.make_again is None else self.make_again()

    def digest(self) -> str:
        """Of the files that it is stored as."""
        return self._released.facts.digest if self.is_released else content_digest(self.model_folder)

    def exact(self) -> Mapping[str, int | None]:
        """What was counted of it before its weights were released."""
        return self._released.facts.exact if self.is_released else {}

    @property
    def _released(self) -> ReleasedModel:
        return ReleasedModel.load(self.folder / RELEASED)

    @property
    def model_folder(self) -> Path:
        """Where the model's own files are."""
        return self.folder / MODEL

    def fresh(self, code_folder: str | None) -> Model:
        """The model read anew: a pass may change it in place."""
        return load_model(self.model_folder, self.model.form, code_folder)


def write_model(folder: Path, model: Model, facts: dict[str, Any], measured: dict[str, Any]) -> Path:
    """Write a model, its facts and measurements into an empty folder; gives the model's own folder."""
    (folder / MODEL).mkdir()
    model.save(folder / MODEL)
    record = {"form": model.form, "facts": facts, "measured": measured}
    (folder / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True))
    return folder / MODEL


def read_model(folder: Path, code_folder: str | None) -> StoredModel:
    """Read back what :func:`write_model` wrote; an entry's folder is named by its key."""
    record = json.loads((folder / RECORD).read_text())
    model: Model
    if (folder / RELEASED).is_dir():
        model = ReleasedModel.load(folder / RELEASED)
    else:
        model = load_model(folder / MODEL, record["form"], code_folder)
    return StoredModel(folder.name, folder, model, record["facts"], record["measured"])


def load_model(folder: Path, form: str, code_folder: str | None) -> Model:
    """A model by its form."""
    if form == TorchModel.form:
        return TorchModel.load(folder, code_folder)
    if form == LanguageModel.form:
        return LanguageModel.load(folder)
    if form == "onnx":
        from squeeze.models.onnx_model import OnnxModel  # onnx_ir takes a second to import

        return OnnxModel.load(folder)
    return Artifact.load(folder)
