"""A target: where a model will run. It builds what the runtime there loads, packs it and proves the package.

A target is its options, as a pass is. What is inside a package is the business of ``package``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Generic, TypeVar

import onnx_ir as ir
from pydantic import BaseModel, ConfigDict

from squeeze.errors import UsageError
from squeeze.models.artifact import Artifact, Facts
from squeeze.models.base import Batch, Model, forms_of
from squeeze.models.onnx_model import OnnxModel
from squeeze.models.ort_session import dtype, feed, fixed_batch, parts
from squeeze.targets.card import Score
from squeeze.targets.golden import Golden
from squeeze.targets.manifest import Runtime, TensorSpec
from squeeze.targets.package import Contents, write_package
from squeeze.targets.verify import Verification, open_package, run_golden, runtime_version, verify

In = TypeVar("In", bound=Model)

FLOAT_TOLERANCE = 1e-3  # other vector units add in another order
NARROW_TOLERANCE = 5e-2  # a rounding that falls the other way moves a quantized output by whole steps
_WIDE = {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL}


@dataclass(frozen=True)
class Pieces:
    """What a run knows and a package tells.

    Args:
        golden: A few examples; the outputs are computed from the packed file itself.
        plan, ledger, measurements, labels, preprocessing, provenance, scores: As in ``Contents``.
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


@dataclass(frozen=True)
class Packed:
    """A package that was written and has verified.

    Args:
        artifact: The model as read back from the package.
    """

    path: Path
    digest: str
    artifact: Artifact
    verification: Verification


class Target(BaseModel, ABC, Generic[In]):
    """One target of a plan: a frozen set of options; the brackets say which forms it takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    takes: ClassVar[tuple[type[Model], ...]]  # from the brackets
    extra: ClassVar[str | None] = None

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
    def build(self, model: In, folder: Path) -> Artifact:
        """Write what the runtime loads into an empty folder; the same model gives the same bytes."""

    def faults(self, model: Model) -> Iterator[str]:
        """What is wrong with these options for this model, found on a model without weights."""
        return iter(())

    def options(self) -> dict[str, Any]:
        """The options as plain JSON values, defaults included."""
        return self.model_dump(mode="json")

    def pack(self, model: In | Artifact, pieces: Pieces, out: Path) -> Packed:
        """Build (an artifact is taken as it is), write the zip, open it again and verify it; then ``out`` appears.

        Raises:
            VerifyError: The runtime does not take the package back; ``out`` is left as it was.
            UsageError: The model has another form than the target takes.
        """
        written = out.with_name(f".{out.name}.unverified")
        try:
            with TemporaryDirectory(prefix="squeeze-pack-") as folder:
                artifact = model if isinstance(model, Artifact) else self.build(self._taken(model), Path(folder))
                digest = write_package(self.contents(artifact, pieces), written)
            package = open_package(written)
            verification = verify(package)
            written.replace(out)
        finally:
            written.unlink(missing_ok=True)
        package.path = out
        return Packed(out, digest, package.load_model(), verification)

    def contents(self, artifact: Artifact, pieces: Pieces) -> Contents:
        """All that goes into the package of this artifact."""
        root = artifact.file.parent
        session = artifact.session(1)
        facts = artifact.facts or Facts(artifact.parameters(), artifact.macs(), NARROW_TOLERANCE)
        golden = _golden(artifact, pieces.golden)
        return Contents(
            name=pieces.name,
            target=self.name,
            model=artifact.file.name,
            files={path.relative_to(root).as_posix(): path for path in (*artifact.files, *artifact.beside)},
            inputs=[_spec(value) for value in session.get_inputs()],
            outputs=[_spec(value) for value in session.get_outputs()],
            runtime=Runtime(version=runtime_version()),
            golden=golden,
            tolerance=facts.tolerance,
            plan=pieces.plan,
            ledger=pieces.ledger,
            parameters=facts.parameters,
            macs=facts.macs,
            measurements=pieces.measurements,
            labels=pieces.labels,
            preprocessing=pieces.preprocessing,
            provenance=pieces.provenance,
            scores=pieces.scores,
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


def _golden(artifact: Artifact, batch: Batch) -> Golden:
    inputs = feed(artifact.inputs, batch, str(artifact.file))
    if size := fixed_batch(artifact.session(1)):
        inputs = next(parts(inputs, len(batch), size))
    outputs = run_golden(artifact.file, Golden(inputs, {}), artifact.file.name)
    return Golden(inputs, outputs)


def _spec(value: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, (int, str)) else f"d{place}" for place, size in enumerate(value.shape))
    return TensorSpec(name=value.name, shape=shape, dtype=dtype(value))
