"""A target: where a model will run. A writer makes what the runtime there loads; the package is proven in it.

A target is its options, as a pass is. What is inside a package is the business of ``package``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast

from pydantic import PositiveInt

from squeeze import registry
from squeeze.errors import UsageError, VerifyError
from squeeze.formats.grid_kind import GridKind
from squeeze.models.artifact import Artifact
from squeeze.models.base import ADAPTER, Model, forms_of, has_form
from squeeze.models.facts import NARROW_TOLERANCE, Facts
from squeeze.models.options import Options, Unused
from squeeze.targets.described import describe
from squeeze.targets.package import PackageInputs, write_package
from squeeze.targets.verify import Verification, open_package, verify
from squeeze.work import owned_folder, temporary_folder
from squeeze.writers.base import Writer
from squeeze.writers.proof import proven

In = TypeVar("In", bound=Model)


@dataclass(frozen=True)
class Packed:
    """A package that was written and has verified."""

    path: Path
    digest: str
    verification: Verification

    @cached_property
    def artifact(self) -> Artifact:
        """The model as read back from the package, which is opened for it: until then nothing of it is unpacked.

        Raises:
            VerifyError: the package is gone, or is another one by now.
        """
        package = open_package(self.path)
        if package.manifest.digest != self.digest:
            raise VerifyError(f"{self.path}: is not the package that was written here any more; pack it again")
        return package.load_model()


class Target(Options, ABC, Generic[In]):
    """One target of a plan: a frozen set of options; the brackets say which forms it takes."""

    name: ClassVar[str]
    takes: ClassVar[tuple[type[Model], ...]]  # from the brackets
    cache_element_bytes: ClassVar[int] = 4  # bytes of a cached key or value at run time

    device: str | None = None
    """Where it must fit: a name that squeeze devices lists, or a .yaml file beside the plan; null: not asked."""
    device_context: PositiveInt = 2048
    """Tokens of a text that memory on the device is counted for."""

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
    def writer(self) -> Writer[In]:
        """What writes the files."""

    def writer_of(self, model: Model | None) -> Writer[In]:
        """The writer of this model, where it depends on the model."""
        return self.writer()

    def counted_context(self, model: Model) -> int:
        """Tokens of a text that memory on a device is counted for."""
        return self.device_context

    @property
    @abstractmethod
    def runs_in(self) -> str:
        """Registered name of the runtime that scores and verifies them."""

    def facts(self, model: In) -> Facts:
        """Counts of the model, and how far another host may be off."""
        facts: Facts = getattr(model, "facts", None) or Facts(model.parameters(), NARROW_TOLERANCE, model.macs())
        return facts

    def build(self, model: In, folder: Path) -> Artifact:
        """Write what the runtime loads into an empty folder; the same model gives the same bytes.

        Raises:
            UsageError: the model has an adapter, which would be lost.
        """
        if ADAPTER in model.marks() and (fault := self.adapter_fault()):
            raise UsageError(f"target {self.name}: {fault}")
        file = self.writer_of(model).write(model, folder)
        runtime = registry.load("runtimes", self.runs_in)
        beside = tuple(path for path in sorted(folder.rglob("*")) if path.is_file() and path != file)
        built: Artifact = runtime.artifact(file, self.facts(model), model.task, beside=beside)
        return built

    def faults(self, model: Model) -> Iterator[str]:
        """What is wrong with these options for this model, found on a model without weights."""
        if has_form(model, self.takes):
            yield from self.writer_of(model).faults(cast(In, model))

    def adapter_fault(self) -> str | None:
        """Why a low-rank adapter beside a model's weights would be lost; None: it is written and read."""
        return "writes no adapter beside the weights; target: gguf does"

    def unused(self, model: Model, grid: Mapping[str, GridKind] | None) -> Iterator[Unused]:
        if self.device is None:
            yield Unused("device_context", "goes with device, which is not named")
        elif not model.reads_tokens():
            yield Unused("device_context", "is of texts, and the model reads none: leave it out")

    def grid_faults(self, grid: Mapping[str, GridKind], model: Model | None = None) -> Iterator[str]:
        """Which of the grids that weights will lie on this target cannot hold, and what it could."""
        return self.writer_of(model).grid_faults(grid)

    def memory_bytes(self, model: Model, grid: Mapping[str, GridKind]) -> int | None:
        """The peak of writing the files, as the writer foretells it; None: it cannot tell."""
        return self.writer_of(model).memory_bytes(cast(In, model), grid) if has_form(model, self.takes) else None

    def extras(self) -> tuple[str, ...]:
        """Extras of Squeeze that this target with these options needs."""
        needed = (self.writer().extra, registry.load("runtimes", self.runs_in).extra)
        return tuple(dict.fromkeys(extra for extra in needed if extra))

    def prove(self, model: In, built: Artifact) -> list[dict[str, Any]]:
        """What shows that the built files hold the model's very weights, for the ledger; JSON values.

        Raises:
            EffectError: they do not.
        """
        return proven(self.writer_of(model).prove(model, built.main))

    def built_facts(self, model: In, built: Artifact) -> dict[str, Any]:
        """What the ledger tells of the built files: their proof, and what the format has to say."""
        proof = self.prove(model, built)
        return {**({"proof": proof} if proof else {}), **self.writer_of(model).facts(model, built.main)}

    def options(self) -> dict[str, Any]:
        """The options as plain JSON values, defaults included; nothing of a device where none is named."""
        unnamed = {"device", "device_context"} if self.device is None else set()
        return self.model_dump(mode="json", exclude=unnamed)

    def pack(self, model: In, inputs: PackageInputs, out: Path) -> Packed:
        """Build, write the zip, open it again and verify it; then ``out`` appears.

        Raises:
            VerifyError: The runtime does not take the package back; ``out`` is left as it was.
            UsageError: The model has another form than the target takes.
        """
        if not has_form(model, self.takes):
            forms = " or ".join(kind.form for kind in self.takes)
            raise UsageError(f"target {self.name} takes {forms}, not {model.form}")
        with temporary_folder("pack") as folder:
            return self.pack_built(self.build(model, folder), inputs, out, model)

    def pack_built(self, artifact: Artifact, inputs: PackageInputs, out: Path, source: Model | None = None) -> Packed:
        """As :meth:`pack`, of what was built before from ``source``."""
        with owned_folder(out.parent) as unverified:
            written = unverified / out.name
            digest = write_package(inputs, self.name, describe(artifact, inputs.golden, source), written)
            artifact.close()  # its session would stay in memory beside that of the process that verifies
            verification = verify(open_package(written))
            written.replace(out)
        return Packed(out, digest, verification)
