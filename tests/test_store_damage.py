"""Bits that flip on disk: noticed on reading, said in one line, and made again without asking."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from squeeze import sums
from squeeze.progress import Progress
from squeeze.store import Journal, Store
from squeeze.sums import is_whole, put_summed


class Lines(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def write(folder: Path) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "weights").write_bytes(b"\x00\x01\x02\x03")
    (folder / "said.json").write_text('{"a": 1}')


def content(folder: Path) -> bytes:
    return (folder / "model" / "weights").read_bytes() + (folder / "said.json").read_bytes()


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    sums._KNOWN.clear()  # as the next process sees it


FILES = ["model/weights", "said.json", "entry.json"]


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_of_an_entry_is_noticed_and_made_again(tmp_path: Path, name: str) -> None:
    progress = Lines()
    store = Store(tmp_path, progress)
    folder = store.cached("thing", {"a": 1}, write, lambda folder: folder)
    whole, written = content(folder), (folder / name).read_bytes()
    for bit in range(0, 8 * len(written), 1 if len(written) < 100 else 7):
        (folder / name).write_bytes(written)
        flip(folder / name, bit)
        assert store.get(folder.name) is None, f"bit {bit}"
        assert "damaged and is made again" in progress.lines.pop()
    assert store.cached("thing", {"a": 1}, write, content) == whole
    assert len(progress.lines) == 1


def test_a_missing_file_is_noticed(tmp_path: Path) -> None:
    store = Store(tmp_path, Lines())
    folder = store.cached("thing", {}, write, lambda folder: folder)
    (folder / "said.json").unlink()
    assert store.cached("thing", {}, write, content).endswith(b"}")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"layout": 1}', "[" * 9000], ids=["empty", "cut", "list", "null", "old", "deep"]
)
def test_an_entry_json_that_is_none_is_made_again(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path, Lines())
    folder = store.cached("thing", {}, write, lambda folder: folder)
    (folder / "entry.json").write_text(text)
    assert store.cached("thing", {}, write, content).endswith(b"}")
    assert len(store.entries()) == 1


def test_a_pipe_in_place_of_an_entry_json_is_made_again_and_nobody_waits_for_it(tmp_path: Path) -> None:
    store = Store(tmp_path, Lines())
    folder = store.cached("thing", {}, write, lambda folder: folder)
    (folder / "entry.json").unlink()
    os.mkfifo(folder / "entry.json")
    assert store.cached("thing", {}, write, content).endswith(b"}")


def test_every_flipped_bit_of_a_journal_piece_is_noticed_or_harmless(tmp_path: Path) -> None:
    """A flip in padding changes nothing: what is read is proven equal to what was written."""
    journal, expected = Journal(tmp_path), {"w": torch.arange(3.0), "none": torch.zeros(0), "one": torch.tensor(2)}
    journal.put("piece", expected)
    file = tmp_path / "piece.safetensors"
    whole, noticed = file.read_bytes(), []
    for bit in range(0, 8 * len(whole), 5):
        file.write_bytes(whole)
        flip(file, bit)
        piece = journal.get("piece")
        noticed.append(piece is None)
        assert piece is None or all(torch.equal(piece[name], expected[name]) for name in expected)
    assert sum(noticed) > len(noticed) * 9 // 10


@pytest.mark.parametrize("size", [0, 4, 20, 200])
def test_a_journal_piece_cut_anywhere_counts_as_absent(tmp_path: Path, size: int) -> None:
    journal = Journal(tmp_path)
    journal.put("piece", {"w": torch.arange(99.0)})
    file = tmp_path / "piece.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    assert journal.get("piece") is None


def test_a_block_on_disk_that_changed_counts_as_unfinished(tmp_path: Path) -> None:
    part, block = tmp_path / "model" / "block.part", tmp_path / "model" / "block.safetensors"
    part.parent.mkdir()
    part.write_bytes(b"block")
    put_summed(part, block)
    assert is_whole(block)
    block.write_bytes(b"blocl")
    assert not is_whole(block)
    assert not is_whole(tmp_path / "model" / "another")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_warm_store_that_cannot_be_written_is_read(tmp_path: Path) -> None:
    """Another user's store: the time of use cannot be noted, and need not be."""
    tmp_path.chmod(0o755)
    Store(tmp_path).make("k", "thing", {}, write)
    program = (
        "import encodings.ascii, os, sys; from pathlib import Path; from squeeze.store import Store\n"
        "os.chdir(sys.argv[1]); os.setgid(65534); os.setuid(65534)\n"  # pytest's own folders are closed to others
        "store = Store(Path()); assert not store.writable\n"
        "with store.run(): print((store.get('k') / 'said.json').read_text())"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == '{"a": 1}\n', done.stderr
