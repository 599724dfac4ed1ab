"""Packages that lie, made of one that does not."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

from squeeze.errors import VerifyError
from squeeze.targets.manifest import Manifest, readable_json
from squeeze.targets.package import file_sum
from squeeze.targets.verify import open_package, verify

Files = dict[str, bytes]


def zipped(path: Path, files: Files, also: Callable[[zipfile.ZipFile], None] = lambda _: None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        also(archive)
    return path


def resealed(files: Files, **changes: object) -> Files:
    """The files with a manifest that fits them: what an attacker who knows the format would write."""
    listed = {n: file_sum(d) for n, d in files.items() if n not in ("manifest.json", "measurements.json")}
    old = json.loads(files["manifest.json"]) | {"files": {n: s.model_dump() for n, s in listed.items()}} | changes
    manifest = Manifest.model_validate(old).sealed()
    return {**files, "manifest.json": readable_json(manifest.model_dump(mode="json"))}


def sealed(path: Path, files: Files) -> Path:
    """A package whose manifest fits them."""
    return zipped(path, resealed(files))


def fault(package: Path) -> str:
    """What is said of a package; nothing where it verifies."""
    try:
        verify(open_package(package))
    except VerifyError as error:
        return str(error)
    return ""


def patch_directory(package: Path, name: str, offset: int, value: bytes) -> None:
    """Overwrite a field of a name's entry in the zip's central directory."""
    data = bytearray(package.read_bytes())
    start = data.rindex(b"PK\x01\x02", 0, data.rindex(name.encode()))
    data[start + offset : start + offset + len(value)] = value
    package.write_bytes(data)
