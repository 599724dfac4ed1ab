"""Every way in which a package can lie is met by one clear line."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from hostile_world import Files, fault, patch_directory, zipped

from squeeze.errors import VerifyError
from squeeze.targets.archive import Limits
from squeeze.targets.base import Packed
from squeeze.targets.verify import open_package


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../evil.txt", r"'\.\./evil\.txt': a path that leaves its folder"),
        ("a/../../evil.txt", "a path that leaves its folder"),
        ("/etc/evil", "an absolute or empty path"),
        ("C:/evil", "a drive letter"),
        ("a\\..\\evil", "a backslash"),
        ("a\nb", "control characters"),
    ],
)
def test_a_path_that_leaves_the_folder_is_refused(files: Files, tmp_path: Path, name: str, reason: str):
    package = zipped(tmp_path / "p.zip", {**files, name: b"x"})
    with pytest.raises(VerifyError, match=reason):
        open_package(package)
    assert [path.name for path in tmp_path.iterdir()] == ["p.zip"]


def test_a_changed_byte_is_found_by_its_sum(files: Files, tmp_path: Path):
    data = bytearray(files["model.onnx"])
    data[len(data) // 2] ^= 1
    with pytest.raises(VerifyError, match=r"p\.zip: model\.onnx: sha256 is .*; the manifest says"):
        open_package(zipped(tmp_path / "p.zip", {**files, "model.onnx": bytes(data)}))


def test_a_changed_byte_anywhere_in_the_zip_is_one_line_or_harmless(packed: Packed, tmp_path: Path):
    whole = packed.path.read_bytes()
    for position in range(0, len(whole), 97):
        damaged = bytearray(whole)
        damaged[position] ^= 0x55
        (tmp_path / "p.zip").write_bytes(damaged)
        assert "\n" not in fault(tmp_path / "p.zip")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_zip_is_refused(packed: Packed, tmp_path: Path, share: float):
    whole = packed.path.read_bytes()
    (tmp_path / "p.zip").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(VerifyError, match=r"p\.zip: cannot be unpacked \(File is not a zip file\)"):
        open_package(tmp_path / "p.zip")


def test_an_absent_package_is_named(tmp_path: Path):
    with pytest.raises(VerifyError, match=r"p\.zip: no such package"):
        open_package(tmp_path / "p.zip")


def test_a_pipe_is_no_package_and_nobody_waits_for_one(tmp_path: Path):
    os.mkfifo(tmp_path / "p.zip")
    with pytest.raises(VerifyError, match="is a pipe"):
        open_package(tmp_path / "p.zip")


def test_an_extra_file_is_refused(files: Files, tmp_path: Path):
    with pytest.raises(VerifyError, match=r"extra\.txt: is not in the manifest"):
        open_package(zipped(tmp_path / "p.zip", {**files, "extra.txt": b"x"}))


def test_a_missing_file_is_refused(files: Files, tmp_path: Path):
    del files["ledger.json"]
    with pytest.raises(VerifyError, match=r"ledger\.json: is missing; the manifest lists it"):
        open_package(zipped(tmp_path / "p.zip", files))


def test_a_wrong_size_is_refused(files: Files, tmp_path: Path):
    with pytest.raises(VerifyError, match=r"ledger\.json: has \d+ bytes; the manifest says \d+"):
        open_package(zipped(tmp_path / "p.zip", {**files, "ledger.json": files["ledger.json"] + b"\n"}))


def test_two_names_that_differ_in_case_are_refused(files: Files, tmp_path: Path):
    with pytest.raises(VerifyError, match=r"LEDGER\.json: there is also 'ledger\.json'"):
        open_package(zipped(tmp_path / "p.zip", {**files, "LEDGER.json": b"{}"}))


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # zipfile warns of what this test is about
def test_a_name_that_occurs_twice_is_refused(files: Files, tmp_path: Path):
    package = zipped(tmp_path / "p.zip", files, lambda archive: archive.writestr("run.py", "print('other')"))
    with pytest.raises(VerifyError, match=r"run\.py: there is also 'run\.py'"):
        open_package(package)


@pytest.mark.parametrize(("kind", "word"), [(stat.S_IFLNK, "symbolic link"), (stat.S_IFIFO, "device or a pipe")])
def test_a_link_or_a_pipe_is_refused(files: Files, tmp_path: Path, kind: int, word: str):
    entry = zipfile.ZipInfo("link")
    entry.create_system, entry.external_attr = 3, (kind | 0o777) << 16
    package = zipped(tmp_path / "p.zip", files, lambda archive: archive.writestr(entry, "/etc/passwd"))
    with pytest.raises(VerifyError, match=f"link: is a {word}"):
        open_package(package)


def test_a_link_in_an_unpacked_folder_is_refused(files: Files, tmp_path: Path):
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "run.py").unlink()
    (tmp_path / "run.py").symlink_to("/etc/passwd")
    with pytest.raises(VerifyError, match=r"run\.py: is a link or a device"):
        open_package(tmp_path)


def test_an_encrypted_entry_is_refused(files: Files, tmp_path: Path):
    package = zipped(tmp_path / "p.zip", files)
    patch_directory(package, "ledger.json", offset=8, value=struct.pack("<H", 1))
    with pytest.raises(VerifyError, match=r"ledger\.json: is encrypted"):
        open_package(package)


def test_another_compression_is_refused(files: Files, tmp_path: Path):
    def lzma(archive: zipfile.ZipFile) -> None:
        archive.writestr("odd", b"x", compress_type=zipfile.ZIP_LZMA)

    with pytest.raises(VerifyError, match="odd: is compressed by method 14"):
        open_package(zipped(tmp_path / "p.zip", files, lzma))


def test_a_claim_over_the_limit_is_refused_before_anything_is_unpacked(files: Files, tmp_path: Path):
    package = zipped(tmp_path / "p.zip", files)
    patch_directory(package, "model.onnx", offset=24, value=struct.pack("<I", 0xFFFFFFF0))
    with pytest.raises(VerifyError, match=r"model\.onnx: claims 4294967280 bytes.* holds at most 1000000"):
        open_package(package, Limits(total_bytes=1_000_000))


def test_a_bomb_that_claims_its_size_is_refused_by_its_ratio(files: Files, tmp_path: Path):
    package = zipped(tmp_path / "p.zip", {**files, "zeros": bytes(20_000_000)})
    with pytest.raises(VerifyError, match="more than 200 times is refused as a bomb"):
        open_package(package, Limits(free_bytes=1_000_000))


def test_a_bomb_that_claims_less_than_it_holds_is_stopped_at_its_claim(files: Files, tmp_path: Path):
    package = zipped(tmp_path / "p.zip", {**files, "zeros": bytes(20_000_000)})
    patch_directory(package, "zeros", offset=24, value=struct.pack("<I", 1000))
    with pytest.raises(VerifyError, match="zeros: claims 1000 bytes and unpacks to more"):
        open_package(package)


def test_an_entry_that_holds_less_than_it_claims_is_refused(files: Files, tmp_path: Path):
    package = zipped(tmp_path / "p.zip", files)
    patch_directory(package, "ledger.json", offset=24, value=struct.pack("<I", 5000))
    with pytest.raises(VerifyError, match=r"ledger\.json: claims 5000 bytes and unpacks to \d+"):
        open_package(package)


def test_too_many_files_are_refused(files: Files, tmp_path: Path):
    with pytest.raises(VerifyError, match="8 files; a package holds at most 5"):
        open_package(zipped(tmp_path / "p.zip", files), Limits(files=5))
