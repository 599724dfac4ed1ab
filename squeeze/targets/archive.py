"""Zip files: written as the same bytes for the same content, read as if an enemy had made them.

What the files mean is the business of ``package`` and ``verify``.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from squeeze.errors import RefusedError, VerifyError
from squeeze.refused import is_of_this_host, refusal

Source = Path | bytes
CHUNK_BYTES = 1 << 20
LEVEL = 6  # of deflate
SAMPLE_BYTES = 1 << 20  # of a file's beginning, on which ways to compress it are compared
STRATEGIES = (zlib.Z_HUFFMAN_ONLY, zlib.Z_DEFAULT_STRATEGY)  # the faster one where both do as well
LONGEST_NAME = 255  # bytes; what file systems take
_DATE = (1980, 1, 1, 0, 0, 0)  # the zip format's first day
_UNIX = 3
_MODE = stat.S_IFREG | 0o644


@dataclass(frozen=True)
class Limits:
    """How large an archive may be before it is refused.

    Args:
        files: Number of entries.
        total_bytes: All entries together, unpacked.
        ratio: Unpacked to packed, above ``free_bytes``: real weights do not shrink this far, bombs do.
        free_bytes: Below this an archive may unpack to any multiple.
    """

    files: int = 1000
    total_bytes: int = 16 << 30
    ratio: int = 200
    free_bytes: int = 256 << 20


def write_zip(files: Mapping[str, Source], out: Path) -> None:
    """Write the files, sorted by name, with fixed dates and permissions; ``out`` appears whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.", suffix=".tmp")
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            _write_entries(files, stream, zipfile.ZIP_DEFLATED)
            stream.flush()
            os.fsync(stream.fileno())
        part.chmod(0o644)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def zip_bytes(files: Mapping[str, bytes]) -> bytes:
    """The same in memory and not compressed, for a small archive inside the archive."""
    stream = BytesIO()
    _write_entries(files, stream, zipfile.ZIP_STORED)
    return stream.getvalue()


def unpack(package: Path, folder: Path, limits: Limits) -> None:
    """Unpack an archive that may be hostile into an empty folder.

    Raises:
        VerifyError: No zip, too many or too large entries, a name that leaves the folder, an entry that lies.
        RefusedError: The disk is full or read-only.
    """
    try:
        with zipfile.ZipFile(package) as archive:
            entries = archive.infolist()
            _check_entries(package, entries, limits)
            for entry in entries:
                _unpack_entry(package, archive, entry, folder)
    except FileNotFoundError as error:
        raise VerifyError(f"{package}: no such package") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, UnicodeError) as error:
        if is_of_this_host(error) and (line := refusal(error, folder)):
            raise RefusedError(line) from error
        raise VerifyError(f"{package}: cannot be unpacked ({error}); copy or make the package again") from error


def check_names(package: Path, names: list[str]) -> None:
    """Refuse names that leave the folder, and two that some file system takes for one."""
    folded: dict[str, str] = {}
    for name in names:
        if reason := _unsafe(name):
            raise VerifyError(f"{package}: {name!r}: {reason}; a plain relative path with '/' would be right")
        if other := folded.get(name.casefold()):
            once = "each name may occur once, whatever its case"
            raise VerifyError(f"{package}: {name}: there is also {other!r}; {once}")
        folded[name.casefold()] = name


def _write_entries(files: Mapping[str, Source], stream: BinaryIO, compression: int) -> None:
    with zipfile.ZipFile(stream, "w", compression, compresslevel=LEVEL) as archive:
        for name in sorted(files):
            source = files[name]
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system, entry.external_attr, entry.compress_type = _UNIX, _MODE << 16, compression
            entry.file_size = len(source) if isinstance(source, bytes) else source.stat().st_size
            with _opened(source) as content, archive.open(entry, "w") as target:
                if compression == zipfile.ZIP_DEFLATED:
                    target._compressor = _compressor(content)  # type: ignore[attr-defined]  # zipfile names levels only
                shutil.copyfileobj(content, target, CHUNK_BYTES)


def _compressor(content: BinaryIO) -> Any:
    """Deflate as it makes the beginning of a file smallest.

    Weights hold few sequences of bytes that occur twice. Where codes for single bytes do as well, the search for such
    sequences, which takes most of the time, is left out.
    """
    sample = content.read(SAMPLE_BYTES)
    content.seek(0)
    return _deflate(min(STRATEGIES, key=lambda strategy: len(_deflated(sample, strategy))))


def _deflate(strategy: int) -> Any:
    return zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy)


def _deflated(content: bytes, strategy: int) -> bytes:
    made = _deflate(strategy)
    return bytes(made.compress(content)) + bytes(made.flush())


def _opened(source: Source) -> BinaryIO:
    return BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _check_entries(package: Path, entries: list[zipfile.ZipInfo], limits: Limits) -> None:
    if len(entries) > limits.files:
        raise VerifyError(f"{package}: {len(entries)} files; a package holds at most {limits.files}")
    check_names(package, [entry.filename for entry in entries])
    for entry in entries:
        if reason := _unfit(entry) or _empty_folder(entry, entries):
            raise VerifyError(f"{package}: {entry.filename}: {reason}")
    claimed = sum(entry.file_size for entry in entries)
    if claimed > limits.total_bytes:
        largest = max(entries, key=lambda entry: entry.file_size)
        raise VerifyError(
            f"{package}: {largest.filename}: claims {largest.file_size} bytes, all files {claimed}; "
            f"a package holds at most {limits.total_bytes}"
        )
    packed = package.stat().st_size
    if claimed > max(limits.free_bytes, limits.ratio * packed):
        bomb = f"more than {limits.ratio} times is refused as a bomb"
        raise VerifyError(f"{package}: {packed} bytes would unpack to {claimed}; {bomb}")


def _unsafe(name: str) -> str | None:
    parts = PurePosixPath(name.rstrip("/")).parts
    if name.startswith("/") or not parts:
        return "an absolute or empty path"
    if ".." in parts:
        return "a path that leaves its folder ('..')"
    if "\\" in name:
        return "a backslash in a path"
    if ":" in name:
        return "a drive letter or a colon in a path"
    if any(len(part.encode(errors="replace")) > LONGEST_NAME for part in parts):
        return f"a name of more than {LONGEST_NAME} bytes"
    if not name.isprintable():
        return "a path with control characters"
    return None


def _unfit(entry: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if entry.flag_bits & 0x1:
        return "is encrypted; packages are not"
    if kind == stat.S_IFLNK:
        return "is a symbolic link; only plain files are unpacked"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a device or a pipe; only plain files are unpacked"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is compressed by method {entry.compress_type}; stored and deflated are read"
    return None


def _empty_folder(entry: zipfile.ZipInfo, entries: list[zipfile.ZipInfo]) -> str | None:
    """A folder is there for the files in it: ``run.py/`` beside ``run.py`` would be neither."""
    if not entry.is_dir() or any(other.filename.startswith(entry.filename) for other in entries if not other.is_dir()):
        return None
    return "is a folder without files; only folders of listed files belong in a package"


def _unpack_entry(package: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> None:
    if entry.is_dir():
        return
    target = folder / entry.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with target.open("xb") as stream:
        for chunk in _chunks(archive, entry):
            size += len(chunk)
            if size > entry.file_size:
                break
            stream.write(chunk)
    if size != entry.file_size:
        claim = f"claims {entry.file_size} bytes and unpacks to {'more' if size > entry.file_size else size}"
        raise VerifyError(f"{package}: {entry.filename}: {claim}; refused")


def _chunks(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    """Decompress up to one byte beyond the claim, so that a lie is seen and costs nothing."""
    probe = copy(entry)
    probe.file_size += 1
    del probe.CRC  # the manifest's sha256 decides, not a checksum that an attacker writes as well
    with archive.open(probe) as source:
        while chunk := source.read(CHUNK_BYTES):
            yield chunk
