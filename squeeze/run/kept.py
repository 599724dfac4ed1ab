"""Models in the store: written with what a pass said about itself, read back by their form."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from squeeze.models.artifact import Artifact
from squeeze.models.base import Model
from squeeze.models.language.artifact import LanguageArtifact
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.onnx_model import OnnxModel
from squeeze.models.torch_model import TorchModel

MODEL, SAID = "model", "said.json"


@dataclass(frozen=True)
class Kept:
    """One model of a run as it lies in the store."""

    key: str
    folder: Path
    model: Model
    facts: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)

    @property
    def model_folder(self) -> Path:
        """Where the model's own files are."""
        return self.folder / MODEL

    def fresh(self, code_folder: str | None) -> Model:
        """The model read anew: a pass may change it in place."""
        return load_model(self.model_folder, self.model.form, code_folder)


def write_model(folder: Path, model: Model, facts: dict[str, Any], measured: dict[str, Any]) -> Path:
    """Write a model and what was said about it into an empty folder; gives the model's own folder."""
    (folder / MODEL).mkdir()
    model.save(folder / MODEL)
    said = {"form": model.form, "facts": facts, "measured": measured}
    (folder / SAID).write_text(json.dumps(said, indent=1, sort_keys=True))
    return folder / MODEL


def read_model(folder: Path, code_folder: str | None) -> Kept:
    """Read back what :func:`write_model` wrote; an entry's folder is named by its key."""
    said = json.loads((folder / SAID).read_text())
    model = load_model(folder / MODEL, said["form"], code_folder)
    return Kept(folder.name, folder, model, said["facts"], said["measured"])


def load_model(folder: Path, form: str, code_folder: str | None) -> Model:
    """A model by its form."""
    if form == TorchModel.form:
        return TorchModel.load(folder, code_folder)
    if form == LanguageModel.form:
        return LanguageModel.load(folder)
    if form == LanguageArtifact.form:
        return LanguageArtifact.load(folder)
    return OnnxModel.load(folder) if form == OnnxModel.form else Artifact.load(folder)
