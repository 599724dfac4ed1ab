"""A target: where a model will run. It builds what the runtime there loads, packs it and proves the package.

A target is its options, as a pass is. What is inside a package is the business of ``package``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import onnx_ir as ir

from squeeze.errors import UsageError
from squeeze.formats.grid_kind import GridKind
from squeeze.models.artifact import Artifact, Facts
from squeeze.models.base import Batch, Model, forms_of
from squeeze.models.language.artifact import LanguageArtifact
from squeeze.models.onnx_model import OnnxModel
from squeeze.models.options import Options
from squeeze.targets import generator, predictor
from squeeze.targets.card import Score
from squeeze.targets.package import Contents, write_package
from squeeze.targets.predictor import NARROW_TOLERANCE
from squeeze.targets.verify import Verification, open_package, verify
from squeeze.work import owned_folder, temporary_folder

In = TypeVar("In", bound=Model)
Built = Artifact | LanguageArtifact  # what a runtime loads

FLOAT_TOLERANCE = 1e-3  # other vector units add in another order
_WIDE = {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL}


@dataclass(frozen=True)
class PackageInputs:
    """What a run knows and a package tells.

    Args:
        golden: A few examples; the outputs are computed from the packed file itself.
        plan, ledger, measurements, labels, preprocessing, provenance, scores, beside: As in ``Contents``.
    """

    name: str
    golden: Batch
    plan: Mapping[str, Any]
    ledger: Mapping[str, Any]
    measurements: Mapping[str, Any] = field(default_factory=dict)
    labels: Sequence[str] | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    scores: Sequence[Score] = ()
    beside: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Packed:
    """A package that was written and has verified.

    Args:
        artifact: The model as read back from the package.
    """

    path: Path
    digest: str
    artifact: Built
    verification: Verification


class Target(Options, ABC, Generic[In]):
    """One target of a plan: a frozen set of options; the brackets say which forms it takes."""

    name: ClassVar[str]
    takes: ClassVar[tuple[type[Model], ...]]  # from the brackets

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__.lower()
        for base in cls.__mro__:
            args = getattr(base, "__pydantic_generic_metadata__", {}).get("args", ())
            if len(args) == 1 and (forms := forms_of(args[0])):
                cls.takes = forms
                break

    @abstractmethod
    def build(self, model: In, folder: Path) -> Built:
        """Write what the runtime loads into an empty folder; the same model gives the same bytes."""

    def faults(self, model: Model) -> Iterator[str]:
        """What is wrong with these options for this model, found on a model without weights."""
        return iter(())

    def grid_faults(self, grid: Mapping[str, GridKind]) -> Iterator[str]:
        """Which of the grids that weights will lie on this target cannot hold, and what it could."""
        return iter(())

    def extras(self) -> tuple[str, ...]:
        """Extras of Squeeze that this target with these options needs."""
        return ()

    def prove(self, model: In, built: Built) -> list[dict[str, Any]]:
        """What shows that the built files hold the model's very weights, for the ledger; JSON values.

        Raises:
            EffectError: they do not.
        """
        return []

    def options(self) -> dict[str, Any]:
        """The options as plain JSON values, defaults included."""
        return self.model_dump(mode="json")

    def pack(self, model: In | Built, inputs: PackageInputs, out: Path) -> Packed:
        """Build (an artifact is taken as it is), write the zip, open it again and verify it; then ``out`` appears.

        Raises:
            VerifyError: The runtime does not take the package back; ``out`` is left as it was.
            UsageError: The model has another form than the target takes.
        """
        with owned_folder(out.parent) as unverified:
            written = unverified / out.name
            with temporary_folder("pack") as folder:
                artifact = model if isinstance(model, Built) else self.build(self._taken(model), folder)
                digest = write_package(self.contents(artifact, inputs), written)
            package = open_package(written)
            verification = verify(package)
            written.replace(out)
        package.path = out
        return Packed(out, digest, package.load_model(), verification)

    def contents(self, artifact: Built, inputs: PackageInputs) -> Contents:
        """All that goes into the package of this artifact."""
        if isinstance(artifact, LanguageArtifact):
            described = generator.describe(artifact, inputs.golden)
        else:
            described = predictor.describe(artifact, inputs.golden)
        return Contents(
            name=inputs.name,
            target=self.name,
            described=described,
            plan=inputs.plan,
            ledger=inputs.ledger,
            measurements=inputs.measurements,
            labels=inputs.labels,
            preprocessing=inputs.preprocessing,
            provenance=inputs.provenance,
            scores=inputs.scores,
            beside=inputs.beside,
        )

    def _taken(self, model: In) -> In:
        if not isinstance(model, self.takes):
            wanted = " or ".join(kind.form for kind in self.takes)
            raise UsageError(f"target {self.name} takes {wanted}, not {model.form}")
        return model


def facts_of(model: OnnxModel) -> Facts:
    """Counts and tolerance for an artifact that is built from this graph."""
    stored = (value.const_value for graph in model.ir.graphs() for value in graph.initializers.values())
    wide = all(tensor is None or tensor.dtype in _WIDE for tensor in stored)
    return Facts(model.parameters(), model.macs(), FLOAT_TOLERANCE if wide else NARROW_TOLERANCE)
