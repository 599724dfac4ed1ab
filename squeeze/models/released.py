"""What is still known of a model whose files were given up so that a run's store stays small."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

from torch import Tensor

from squeeze import registry
from squeeze.errors import ModelError
from squeeze.models.base import Batch, Layer, Model
from squeeze.versions import content_digest

FILE = "released.json"


@dataclass(frozen=True)
class Facts:
    """What the ledger and the report tell of a model without its weights.

    Args:
        digest: Of the files that it was stored as.
        exact: By what was counted (``squeeze.evaluate.evidence.facts``), the number.
    """

    form: str
    runtime: str | None
    arithmetic: str
    layers: tuple[Layer, ...]
    nbytes: int
    parameters: int | None
    macs: int | None
    digest: str
    exact: Mapping[str, int | None]

    @classmethod
    def of(cls, model: Model, folder: Path, exact: Mapping[str, int | None]) -> Facts:
        """Of a model that is stored in that folder."""
        counts = model.nbytes(), model.parameters(), model.macs()
        told = model.form, model.runtime, model.arithmetic(), tuple(model.layers())
        return cls(*told, *counts, content_digest(folder), exact)


class ReleasedModel(Model):
    """A model without its weights, which are made again where something asks for more than its facts."""

    def __init__(self, facts: Facts) -> None:
        self.facts, self.inputs = facts, ()
        self.form, self.runtime = facts.form, facts.runtime  # type: ignore[misc]  # of the model that it stands for

    def arithmetic(self) -> str:
        return self.facts.arithmetic

    def cannot_run(self) -> str | None:
        reason: str | None = registry.load("runtimes", self.runtime).cannot_run() if self.runtime else None
        return reason

    def layers(self) -> list[Layer]:
        return list(self.facts.layers)

    def nbytes(self) -> int:
        return self.facts.nbytes

    def parameters(self) -> int | None:
        return self.facts.parameters

    def macs(self) -> int | None:
        return self.facts.macs

    def predict(self, batch: Batch) -> Tensor:
        self._refuse()

    def runner(self, batch: Batch, threads: int) -> Callable[[], object]:
        self._refuse()

    def save(self, folder: Path) -> None:
        """The facts."""
        (folder / FILE).write_text(json.dumps(asdict(self.facts), indent=1, sort_keys=True))

    @classmethod
    def load(cls, folder: Path) -> Self:
        values: dict[str, Any] = json.loads((folder / FILE).read_text())
        layers = tuple(Layer(**{**layer, "shape": tuple(layer["shape"])}) for layer in values["layers"])
        return cls(Facts(**{**values, "layers": layers}))

    def _refuse(self) -> NoReturn:
        raise ModelError("the weights were given up to keep the store small, and must be made again first")
