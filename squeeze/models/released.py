"""A model whose files were released from the store, which a plan's ``disk:`` keeps small: its facts are still known."""

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
class ReleasedFacts:
    """What the ledger and the report tell of a model without its weights.

    Args:
        digest: Of the files that it was stored as.
        exact: What metrics counted, by ``metric_key`` of ``squeeze.evaluate.evidence.facts``.
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
    def of(cls, model: Model, folder: Path, exact: Mapping[str, int | None]) -> ReleasedFacts:
        counts = model.nbytes(), model.parameters(), model.macs()
        told = model.form, model.runtime, model.arithmetic(), tuple(model.layers())
        return cls(*told, *counts, content_digest(folder), exact)


class ReleasedModel(Model):
    """A model without its weights; whoever needs more than its facts has them computed again."""

    has_weights = False

    def __init__(self, facts: ReleasedFacts) -> None:
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
        (folder / FILE).write_text(json.dumps(asdict(self.facts), indent=1, sort_keys=True))

    @classmethod
    def load(cls, folder: Path) -> Self:
        values: dict[str, Any] = json.loads((folder / FILE).read_text())
        layers = tuple(Layer(**{**layer, "shape": tuple(layer["shape"])}) for layer in values["layers"])
        return cls(ReleasedFacts(**{**values, "layers": layers}))

    def _refuse(self) -> NoReturn:
        raise ModelError("the weights were released to keep the store small; they must be computed again first")
