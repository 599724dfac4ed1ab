"""Compare the files of an opened package with its manifest; each fault is one line.

Whether the archive itself may be unpacked is the business of ``archive``.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from squeeze import registry
from squeeze.errors import ModelError, VerifyError
from squeeze.formats.onnx_external import external_files, unsafe_location
from squeeze.targets.apps import APP_FILES
from squeeze.targets.archive import Limits
from squeeze.targets.configs import check_config
from squeeze.targets.manifest import GOLDEN, LEDGER, MANIFEST, MEASUREMENTS, PLAN, README, RUN, Manifest
from squeeze.targets.package import file_sum

PROGRAMS = {b"\x7fELF": "ELF"} | {
    magic: "Mach-O"
    for word in ("feedface", "feedfacf", "cafebabe", "cafebabf")
    for magic in (bytes.fromhex(word), bytes.fromhex(word)[::-1])
}
LARGEST_JSON_BYTES = 16 << 20
OWN_FILES = {MANIFEST, MEASUREMENTS, GOLDEN, PLAN, LEDGER, RUN, README, *APP_FILES}  # what every package may hold


def read_manifest(package: Path, folder: Path) -> Manifest:
    """Parse the manifest and check its digest, its model and its golden file."""
    where = f"{package}: {MANIFEST}"
    manifest = _parsed(where, _json(package, folder, MANIFEST))
    for name in (manifest.model, GOLDEN):
        if name not in manifest.files:
            raise VerifyError(f"{where}: does not list {name}, which the package needs")
    known = registry.entries("runtimes")
    if manifest.runtime.name not in known:
        raise VerifyError(f"{where}: runtime {manifest.runtime.name!r} is none of {', '.join(sorted(known))}")
    endings = registry.load("runtimes", manifest.runtime.name).loads.get(manifest.task, ())
    if not endings or not manifest.model.endswith(endings):
        problem = f"no {' or '.join(endings)} file, which" if endings else f"nothing to {manifest.task} with, which"
        raise VerifyError(f"{where}: model {manifest.model!r} is {problem} {manifest.runtime.name} loads")
    try:
        right = manifest.computed_digest()
    except (ValueError, RecursionError) as error:  # NaN, or half a surrogate pair
        raise VerifyError(f"{where}: cannot be summed ({str(error)[:100]}); make the package again") from None
    if manifest.digest != right:
        raise VerifyError(f"{where}: digest is {manifest.digest or 'empty'}; its content gives {right}")
    return manifest


def check_kinds(package: Path, manifest: Manifest) -> None:
    """No kind of file that the package's runtime has no use for: shared libraries, scripts, pickles."""
    suffixes = registry.load("runtimes", manifest.runtime.name).beside
    for name in sorted(manifest.files):
        if name not in OWN_FILES and not name.endswith(suffixes):
            what = f"is no file that {manifest.runtime.name} reads"
            raise VerifyError(f"{package}: {name}: {what}; {', '.join(suffixes)} would be right")


def check_programs(package: Path, folder: Path, manifest: Manifest) -> None:
    """No file, whatever its name, that a loader of shared libraries would take."""
    for name in sorted(manifest.files):
        if (kind := program_kind(folder / name)) is not None:
            raise VerifyError(f"{package}: {name}: holds a program ({kind}); a package holds data only")


def program_kind(file: Path) -> str | None:
    """Which kind of program or library a file begins as."""
    with file.open("rb") as stream:
        head = stream.read(64)
        if head.startswith(b"MZ") and len(head) == 64:  # two letters alone may begin a tensor
            stream.seek(int.from_bytes(head[60:64], "little"))
            return "PE" if stream.read(4) == b"PE\0\0" else None
    return PROGRAMS.get(head[:4])


def check_configs(package: Path, folder: Path, manifest: Manifest) -> None:
    """No config that makes a runtime load or write more than the model."""
    for name in sorted(manifest.files):
        if name.endswith(".json") and name not in OWN_FILES:
            check_config(folder / name, f"{package}: {name}")


def check_files(package: Path, folder: Path, manifest: Manifest, limits: Limits) -> None:
    """Every file that is listed is there, as listed, and no other."""
    present = _plain_files(package, folder, limits)
    unlisted = {MANIFEST, MEASUREMENTS}
    for name in sorted(set(present) - set(manifest.files) - unlisted):
        raise VerifyError(f"{package}: {name}: is not in the manifest; only listed files belong in a package")
    for name in sorted(set(manifest.files) - set(present)):
        raise VerifyError(f"{package}: {name}: is missing; the manifest lists it")
    for name, listed in sorted(manifest.files.items()):
        if (size := present[name].stat().st_size) != listed.size:
            raise VerifyError(f"{package}: {name}: has {size} bytes; the manifest says {listed.size}")
        if (actual := file_sum(present[name])).sha256 != listed.sha256:
            raise VerifyError(f"{package}: {name}: sha256 is {actual.sha256}; the manifest says {listed.sha256}")
    if MEASUREMENTS in present:
        _json(package, folder, MEASUREMENTS)


def check_external_data(package: Path, folder: Path, manifest: Manifest) -> None:
    """Weights that lie beside an ONNX model lie inside the package."""
    for name in sorted(manifest.files):
        if not name.endswith(".onnx"):
            continue
        try:
            locations = external_files(folder / name)
        except ModelError as error:
            raise VerifyError(f"{package}: {name}: not a readable ONNX file; make the package again") from error
        for location in locations:
            beside = (Path(name).parent / location).as_posix()
            if unsafe_location(location):
                raise VerifyError(f"{package}: {name}: weights in {location!r}, outside the package; refused")
            if beside not in manifest.files:
                raise VerifyError(f"{package}: {name}: weights in {location!r}, which the manifest does not list")


def _json(package: Path, folder: Path, name: str) -> object:
    file = folder / name
    if not file.is_file() or file.is_symlink():
        raise VerifyError(f"{package}: {name}: is missing; is this a package of squeeze?")
    if file.stat().st_size > LARGEST_JSON_BYTES:
        raise VerifyError(f"{package}: {name}: {file.stat().st_size} bytes; at most {LARGEST_JSON_BYTES} are read")
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise VerifyError(f"{package}: {name}: is not JSON ({error}); make the package again") from error


def _parsed(where: str, value: object) -> Manifest:
    try:
        return Manifest.model_validate_json(json.dumps(value), strict=True)
    except (ValidationError, RecursionError, ValueError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        place = ".".join(str(part) for part in first["loc"]) or "content"
        raise VerifyError(f"{where}: {place}: {first['msg']}; schema version 1 would be right") from error


def _plain_files(package: Path, folder: Path, limits: Limits) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise VerifyError(f"{package}: {name}: is a link or a device; only plain files would be right")
        if path.is_file():
            files[name] = path
        if len(files) > limits.files:
            raise VerifyError(f"{package}: more than {limits.files} files; a package holds at most that many")
    return files
