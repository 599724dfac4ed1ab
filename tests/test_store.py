import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from squeeze.errors import StoreError
from squeeze.store import Journal, Store, key_of


def write_text(text: str):
    return lambda folder: (folder / "a.txt").write_text(text)


def test_an_entry_is_made_once_and_found_again(tmp_path: Path) -> None:
    store, calls = Store(tmp_path), []

    def write(folder: Path) -> None:
        calls.append(1)
        write_text("x")(folder)

    for _ in range(2):
        folder = store.make("k", "thing", {}, write)
    assert (folder / "a.txt").read_text() == "x"
    assert calls == [1]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        write_text("half")(folder)
        raise ValueError("on purpose")

    store = Store(tmp_path)
    with pytest.raises(ValueError, match="on purpose"):
        store.make("k", "thing", {}, fail)
    assert store.get("k") is None
    assert list((tmp_path / "work").iterdir()) == []


def test_a_damaged_entry_counts_as_absent_and_is_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.make("k", "thing", {}, write_text("whole"))
    (folder / "a.txt").write_text("cut")
    assert store.get("k") is None
    assert (store.make("k", "thing", {}, write_text("again")) / "a.txt").read_text() == "again"


def test_a_key_depends_on_every_making_and_not_on_their_order() -> None:
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert key_of({"a": 1, "b": 2}) != key_of({"a": 1, "b": 3})


def test_a_second_process_waits_and_finds_the_entry_made(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from squeeze.store import Store\n"
        "def write(folder): time.sleep(1.5); (folder / 'who').write_text(sys.argv[2])\n"
        "print(( Store(Path(sys.argv[1])).make('k', 'thing', {}, write) / 'who').read_text())"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path), who], stdout=subprocess.PIPE, text=True)
        for who in ("one", "two")
    ]
    outputs = [process.communicate(timeout=60)[0].strip() for process in both]
    assert outputs[0] == outputs[1]


def test_prune_removes_what_was_not_used_and_keeps_the_rest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key in ("old", "new"):
        store.make(key, key, {}, write_text(key))
    entry = tmp_path / "entries" / "old" / "entry.json"
    stamp = time.time() - 3600
    import os

    os.utime(entry, (stamp, stamp))
    assert [entry.what for entry in store.prune(60, dry_run=True)] == ["old"]
    assert store.get("old") is not None  # a dry run removes nothing; looking at it counts as use
    os.utime(entry, (stamp, stamp))
    store.prune(60)
    assert [entry.what for entry in store.entries()] == ["new"]


def test_prune_leaves_what_another_holds(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.make("k", "thing", {}, write_text("x"))
    with store.lock("k"):
        assert store.prune(-1) == []
    assert len(store.prune(-1)) == 1


def test_a_journal_piece_cut_short_counts_as_absent(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.put("epoch-1", {"w": torch.arange(4.0)})
    piece = journal.get("epoch-1")
    assert piece is not None
    assert piece["w"].tolist() == [0, 1, 2, 3]
    file = tmp_path / "j" / "epoch-1.safetensors"
    file.write_bytes(file.read_bytes()[:20])
    assert journal.get("epoch-1") is None


def test_a_journal_piece_is_a_mapping_that_reads_one_tensor_at_a_time(tmp_path: Path) -> None:
    written = {"w": torch.arange(4.0), "bytes": torch.arange(3, dtype=torch.uint8), "empty": torch.zeros(0)}
    Journal(tmp_path).put("piece", written, lambda tensor: tensor.clone())
    piece = Journal(tmp_path).open("piece")
    assert piece is not None
    assert set(piece) == set(written)
    assert all(torch.equal(piece[name], value) for name, value in written.items())
    assert "none" not in piece
    assert Journal(tmp_path).open("none") is None


def test_a_finished_entry_takes_its_journal_along(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.journal("k").put("piece", {"w": torch.zeros(1)})
    store.make("k", "thing", {}, write_text("x"))
    assert store.journal("k").get("piece") is None


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used as a store"):
        Store(tmp_path / "file")


def test_an_entry_says_what_made_it(tmp_path: Path) -> None:
    folder = Store(tmp_path).make("k", "thing", {"pass": "prune"}, write_text("x"))
    assert json.loads((folder / "entry.json").read_text())["made_from"] == {"pass": "prune"}
