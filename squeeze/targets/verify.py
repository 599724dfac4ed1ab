"""Open a package as if an enemy had made it, and check that it computes what it claims.

``open_package`` looks at the files, ``verify`` at what the model answers, in a confined process of its own. Nothing in
a package is ever executed.
"""

from __future__ import annotations

import shutil
import weakref
from dataclasses import dataclass, field
from pathlib import Path

from squeeze import registry
from squeeze.errors import UsageError, VerifyError
from squeeze.formats.regular import require_regular
from squeeze.models.artifact import Artifact
from squeeze.models.facts import Facts
from squeeze.models.ort_session import products_overflow
from squeeze.models.tasks.base import Task, task_named
from squeeze.runtimes.base import PREDICT, TASKS, Runtime, call_of
from squeeze.targets import child
from squeeze.targets.archive import Limits, check_names, unpack
from squeeze.targets.check import (
    check_configs,
    check_external_data,
    check_files,
    check_kinds,
    check_programs,
    read_manifest,
)
from squeeze.targets.confined import Limits as Confinement
from squeeze.targets.golden import Arrays, Golden, largest_difference, read_npz
from squeeze.targets.manifest import GOLDEN, MANIFEST, Manifest
from squeeze.work import work_folder

OVERFLOW = (
    "this CPU's int8 products overflow 16 bits, and an .ort file cannot be told to use others: its outputs and scores "
    "are this CPU's; ARM and x86 with VNNI compute exactly"
)
STATIC_INTEGERS = ("QLinear", "QGemm")  # of whatever type their activations were given
DYNAMIC_INTEGERS = ("Integer", "DynamicQuantizeMatMul")  # of uint8 always
GOLDEN_ANSWER = "squeeze.targets.answers:golden_answer"


@dataclass
class Package:
    """An opened package whose files are what its manifest says.

    Args:
        path: The zip or the folder that was opened, for messages.
        folder: Where its files lie now; goes with the package when it came from a zip.
    """

    path: Path
    folder: Path
    manifest: Manifest

    def load_model(self) -> Artifact:
        """The model, run by the package's own runtime on the package's own file.

        Raises:
            VerifyError: its task is not known here, or not run as the manifest says.
        """
        manifest = self.manifest
        macs = manifest.macs if manifest.task == PREDICT else manifest.macs or None  # older packages write 0: unknown
        facts = Facts(manifest.parameters, manifest.tolerance, macs)
        return self.runtime().artifact(self.folder / manifest.model, facts, self.task(), self)

    def task(self) -> Task:
        """What the model does; packages of classifiers and language models need not say it."""
        called, where = self.manifest.task, f"{self.path}: {MANIFEST}"
        name = self.manifest.task_name or TASKS[called]
        try:
            task = task_named(name)
        except UsageError as error:
            raise VerifyError(f"{where}: {error}") from error
        if call_of(task) != called:
            raise VerifyError(f"{where}: task_name '{name}' is not run by '{called}'; '{TASKS[called]}' would be")
        return task

    def runtime(self) -> type[Runtime]:
        runtime: type[Runtime] = registry.load("runtimes", self.manifest.runtime.name)
        return runtime

    def golden(self) -> Golden:
        return Golden.from_npz((self.folder / GOLDEN).read_bytes(), f"{self.path}: {GOLDEN}")

    def model_bytes(self) -> int:
        """Bytes of all listed files."""
        return sum(file.size for file in self.manifest.files.values())

    def loaded_bytes(self) -> int:
        """Bytes of the model's file and of the weights beside it; no runtime opens them for that."""
        files = self.runtime().weight_files(self.folder / self.manifest.model)
        return sum(path.stat().st_size for path in files)

    def temporary(self) -> list[Path]:
        """Folders that go with the package: none where it was opened as a folder."""
        return [] if self.folder == self.path else [self.folder]

    def nbytes(self) -> int:
        """Bytes of the zip, or of all files of a folder."""
        if self.path.is_file():
            return self.path.stat().st_size
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


@dataclass(frozen=True)
class Verification:
    """What was found in a package that verified.

    Args:
        difference: Largest golden difference, as a share of the largest golden output.
        bit_equal: True where the golden output is the same to the last bit.
        not_run: Why the runtime did not run the model: then the difference is of what the file says to compute.
        notes: What a reader should know and need not act on.
    """

    digest: str
    files: int
    difference: float
    tolerance: float
    bit_equal: bool
    runtime: str
    not_run: str | None = None
    notes: tuple[str, ...] = field(default=())


def open_package(path: Path | str, limits: Limits | None = None) -> Package:
    """Unpack a zip (or take an unpacked folder) and check every file against the manifest.

    Raises:
        VerifyError: The first thing that is not as it should be: where, what, and what would be right.
    """
    path = Path(path)
    require_regular(path, VerifyError)
    if path.is_dir():
        return _checked(path, path, limits or Limits())
    folder = work_folder("package")
    try:
        unpack(path, folder, limits or Limits())
        package = _checked(path, folder, limits or Limits())
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(package, shutil.rmtree, folder, ignore_errors=True)
    return package


def verify(package: Package, limits: Confinement | None = None) -> Verification:
    """Run the golden input in the runtime and compare; the sums were checked when the package was opened.

    Args:
        limits: On time and memory of the process that runs the model.

    Raises:
        VerifyError: The runtime refuses the model, or the output is further off than the manifest allows.
    """
    manifest, golden, version = package.manifest, package.golden(), runtime_version(package)
    outputs = answer(package, limits or Confinement())
    missing = set(golden.outputs) - set(outputs)
    if missing:
        raise VerifyError(f"{package.path}: {GOLDEN}: output {sorted(missing)[0]!r} is none of the model's")
    difference = largest_difference(golden.outputs, outputs)
    if not difference <= manifest.tolerance:
        raise VerifyError(
            f"{package.path}: golden output differs by {difference:.3g} of its largest value; "
            f"at most {manifest.tolerance:g} would be right (packed with {manifest.runtime.version}, "
            f"this is {version})"
        )
    return Verification(
        digest=manifest.digest,
        files=len(manifest.files),
        difference=difference,
        tolerance=manifest.tolerance,
        bit_equal=difference == 0.0,
        runtime=f"{manifest.runtime.name} {version}",
        not_run=package.runtime().cannot_run(),
        notes=tuple(_notes(package, difference, version)),
    )


def answer(package: Package, limits: Confinement) -> Arrays:
    """What the packed model makes of the golden input, in its runtime, in a confined process.

    Raises:
        VerifyError: a limit was reached, the process died, or the runtime refuses the model or its input.
    """
    manifest = package.manifest
    arguments = {
        "folder": str(package.folder.resolve()),
        "call": manifest.task,
        "model": manifest.model,
        "runtime": manifest.runtime.name,
        "where": str(package.path),
    }
    where, folders = str(package.path), package.temporary()
    reply = child.call(GOLDEN_ANSWER, arguments, limits, package.model_bytes(), where, folders=folders)
    return read_npz(reply.arrays)


def runtime_version(package: Package) -> str:
    """Of the package's runtime as it is installed here; raises ``ModelError`` where it is not."""
    package.runtime().require_installed(package.manifest.name)
    return package.runtime().version()


def _checked(path: Path, folder: Path, limits: Limits) -> Package:
    manifest = read_manifest(path, folder)
    check_names(path, list(manifest.files))
    check_kinds(path, manifest)
    check_files(path, folder, manifest, limits)
    check_programs(path, folder, manifest)
    check_configs(path, folder, manifest)
    check_external_data(path, folder, manifest)
    return Package(path, folder, manifest)


def _multiplies_uint8(package: Package) -> bool:
    """Whether an ``.ort`` file, by itself and the list of operators beside it, multiplies uint8: int8 is exact."""
    from squeeze.formats.ort_canonical import holds_uint8
    from squeeze.writers.ort import OPERATORS  # the writer imports onnx_ir, which takes a second

    file = package.folder / OPERATORS
    operators = file.read_text(errors="replace") if file.is_file() else ""
    if any(name in operators for name in DYNAMIC_INTEGERS):
        return True
    model = package.folder / package.manifest.model
    return any(name in operators for name in STATIC_INTEGERS) and holds_uint8(model.read_bytes())


def _notes(package: Package, difference: float, version: str) -> list[str]:
    manifest, notes = package.manifest, []
    if reason := package.runtime().cannot_run():
        how = "equal to the last bit" if difference == 0.0 else f"within {difference:.2g} of the largest output"
        return [f"not run: {reason}; what the file says to compute, read back from it, gives the golden output {how}"]
    if manifest.not_run:
        notes.append(f"the golden output is of the graph that the file was made from: {manifest.not_run}")
    if manifest.runtime.version != version:
        notes.append(f"packed with {manifest.runtime.name} {manifest.runtime.version}, run with {version}")
    if manifest.model.endswith(".ort") and products_overflow() and _multiplies_uint8(package):
        notes.append(OVERFLOW)
    return [*notes, f"golden output is equal {'to the last bit' if difference == 0.0 else 'within tolerance'}"]
