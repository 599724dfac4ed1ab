"""Open a package as if an enemy had made it, and check that it computes what it claims.

``open_package`` looks at the files, ``verify`` at what the model answers. Nothing in a package is ever executed.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import dataclass, field
from pathlib import Path

from squeeze.errors import ModelError, VerifyError
from squeeze.models.artifact import Artifact, Facts
from squeeze.models.ort_session import open_session
from squeeze.targets.archive import Limits, check_names, unpack
from squeeze.targets.check import check_external_data, check_files, read_manifest
from squeeze.targets.golden import Arrays, Golden, largest_difference
from squeeze.targets.manifest import GOLDEN, Manifest


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
        """The model, run by the package's own runtime on the package's own file."""
        facts = Facts(self.manifest.parameters, self.manifest.macs, self.manifest.tolerance)
        return Artifact(self.folder / self.manifest.model, facts, keeper=self)

    def golden(self) -> Golden:
        """The golden input and output."""
        return Golden.from_npz((self.folder / GOLDEN).read_bytes(), f"{self.path}: {GOLDEN}")

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
        notes: What a reader should know and need not act on.
    """

    digest: str
    files: int
    difference: float
    tolerance: float
    bit_equal: bool
    runtime: str
    notes: tuple[str, ...] = field(default=())


def open_package(path: Path | str, limits: Limits | None = None) -> Package:
    """Unpack a zip (or take an unpacked folder) and check every file against the manifest.

    Raises:
        VerifyError: The first thing that is not as it should be: where, what, and what would be right.
    """
    path = Path(path)
    if path.is_dir():
        return _checked(path, path, limits or Limits())
    folder = Path(tempfile.mkdtemp(prefix="squeeze-package-"))
    try:
        unpack(path, folder, limits or Limits())
        package = _checked(path, folder, limits or Limits())
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(package, shutil.rmtree, folder, ignore_errors=True)
    return package


def verify(package: Package) -> Verification:
    """Run the golden input in the runtime and compare; the sums were checked when the package was opened.

    Raises:
        VerifyError: The runtime refuses the model, or the output is further off than the manifest allows.
    """
    manifest, golden = package.manifest, package.golden()
    found = run_golden(package.folder / manifest.model, golden, str(package.path))
    missing = set(golden.outputs) - set(found)
    if missing:
        raise VerifyError(f"{package.path}: {GOLDEN}: output {sorted(missing)[0]!r} is none of the model's")
    difference = largest_difference(golden.outputs, found)
    if not difference <= manifest.tolerance:
        raise VerifyError(
            f"{package.path}: golden output differs by {difference:.3g} of its largest value; "
            f"at most {manifest.tolerance:g} would be right (packed with {manifest.runtime.version}, "
            f"this is {runtime_version()})"
        )
    return Verification(
        digest=manifest.digest,
        files=len(manifest.files),
        difference=difference,
        tolerance=manifest.tolerance,
        bit_equal=difference == 0.0,
        runtime=f"{manifest.runtime.name} {runtime_version()}",
        notes=tuple(_notes(manifest, difference)),
    )


def run_golden(model: Path, golden: Golden, where: str) -> Arrays:
    """All outputs for the golden input, on one thread, so that the same host gives the same bits."""
    try:
        session = open_session(model, 1, where)
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(golden.inputs)), strict=True))
    except ModelError as error:
        raise VerifyError(str(error)) from error
    except Exception as error:  # ONNX Runtime's own exception classes share no base
        reason = " ".join(str(error).split())[:200]
        raise VerifyError(f"{where}: {model.name} does not take the golden input ({reason})") from error


def runtime_version() -> str:
    """Of the ONNX Runtime that is installed here."""
    import onnxruntime

    return str(onnxruntime.__version__)


def _checked(path: Path, folder: Path, limits: Limits) -> Package:
    manifest = read_manifest(path, folder)
    check_names(path, list(manifest.files))
    check_files(path, folder, manifest, limits)
    check_external_data(path, folder, manifest)
    return Package(path, folder, manifest)


def _notes(manifest: Manifest, difference: float) -> list[str]:
    notes = []
    if manifest.runtime.version != runtime_version():
        notes.append(f"packed with {manifest.runtime.name} {manifest.runtime.version}, run with {runtime_version()}")
    notes.append(
        "golden output is equal to the last bit" if difference == 0.0 else "golden output is equal within tolerance"
    )
    return notes
