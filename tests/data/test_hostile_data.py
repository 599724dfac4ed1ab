"""Data that somebody else made: it may be refused, and may neither hang, nor fill memory, nor end in a traceback."""

from __future__ import annotations

import gzip
import json
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from language_world import write_tokenizer
from tiny import squeeze, write_npz

from squeeze.data import text_file as text_module
from squeeze.data.base import Dataset
from squeeze.data.choice_sources import PairsData, QuestionsData
from squeeze.data.sentences import SentencesData
from squeeze.data.sources import DataSource, FolderData, NpzData
from squeeze.data.text import TextData
from squeeze.errors import DataError


def opened(source: DataSource, folder: Path) -> Dataset:
    """The data, where the plan's own check finds no fault."""
    if faults := list(source.faults(folder)):
        raise DataError("; ".join(faults))
    return source.open(folder, folder)


SOURCES: list[tuple[str, DataSource]] = [
    ("a.npz", NpzData(npz="a.npz")),
    ("a/ant/1.png", FolderData(folder="a")),
    ("a.txt", TextData(text="a.txt")),
    ("a.jsonl", PairsData(pairs="a.jsonl")),
    ("a.json", QuestionsData(questions="a.json")),
    ("a.tsv", SentencesData(sentences="a.tsv", tokenizer=".")),
    ("tokenizer.json", SentencesData(sentences="b.tsv", tokenizer=".")),
]


@pytest.mark.parametrize(("name", "source"), SOURCES, ids=[name for name, _ in SOURCES])
def test_a_pipe_is_no_data_and_nobody_waits_for_one(tmp_path: Path, name: str, source: DataSource) -> None:
    (tmp_path / "b.tsv").write_text("a sentence\t1\n")
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="is a pipe, a socket or a device"):
        opened(source, tmp_path)


@pytest.mark.parametrize("name", ["n" * 300, "n" * 300 + ".npz"])
def test_a_name_that_no_file_system_holds_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="File name too long"):
        opened(NpzData(npz=name), tmp_path)


def black_png(path: Path, side: int) -> Path:
    """An all-black PNG of ``side x side`` in few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + side)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


def test_a_png_of_thirteen_thousand_squared_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    black_png(tmp_path / "t" / "ant" / "1.png", 13_000)
    with pytest.raises(DataError, match=r"1\.png: not a whole image \(Image size \(169000000 pixels\) exceeds limit"):
        FolderData(folder="t").open(tmp_path)


def test_an_npz_that_expands_out_of_proportion_is_refused_before_it_is_expanded(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((5, 8192, 8192), np.uint8), labels=np.zeros(5, int))
    with pytest.raises(DataError, match="'images' would expand to 335544448 bytes out of"):
        NpzData(npz="a.npz").open(tmp_path)


def test_an_array_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    write_npz(tmp_path / "good.npz")
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000, 1000), }".ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "good.npz") as good, zipfile.ZipFile(tmp_path / "a.npz", "w") as bad:
        bad.writestr("labels.npy", good.read("labels.npy"))
        bad.writestr("images.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(9))
    with pytest.raises(DataError, match="'images' claims 1000000000000 bytes and holds"):
        NpzData(npz="a.npz").open(tmp_path)


@pytest.mark.parametrize("label", [np.inf, 1e300, 10**9], ids=str)
def test_a_label_that_is_no_class_number_is_refused(tmp_path: Path, label: Any) -> None:
    write_npz(tmp_path / "a.npz", 3, labels=np.array([0, 1, label]))
    with pytest.raises(DataError, match="holds no class numbers"):
        NpzData(npz="a.npz").open(tmp_path)


def test_a_text_that_expands_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"a" * 2000))
    monkeypatch.setattr(text_module, "MOST_LETTERS", 1000)
    with pytest.raises(DataError, match="more than 1,000 letters"):
        TextData(text="a.txt.gz", length=8).open(tmp_path, tmp_path)


@pytest.mark.parametrize("line", ["[" * 100_000, '{"text": "\\ud800"}', '{"text": ' + "9" * 5000 + "}"], ids=len)
def test_json_lines_that_no_reader_takes_are_one_line(tmp_path: Path, line: str) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "a.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=r"a\.jsonl:1: no JSON"):
        TextData(text="a.jsonl", length=8).open(tmp_path, tmp_path)
    with pytest.raises(DataError, match=r"a\.jsonl: cannot be read as JSON"):
        PairsData(pairs="a.jsonl").open(tmp_path, tmp_path)


@pytest.mark.parametrize("shape", ["3,²,3", "9" * 40, "3,100000,100000", "0,1", ",".join("1" * 20)])
def test_an_input_shape_that_is_none_is_a_usage_fault(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert squeeze("inspect", "tiny:network", "--input", shape) == 2
    assert "not a shape; 3,32,32 would be one" in capsys.readouterr().err


def test_a_tokenizer_whose_longest_text_is_no_number_is_one_line(tmp_path: Path) -> None:
    """transformers compares lengths with whatever the config says, in the midst of a text."""
    write_tokenizer(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_max_length": "many"}))
    (tmp_path / "a.txt").write_text("some words\n" * 9)
    with pytest.raises(DataError, match="no tokenizer can be read here"):
        TextData(text="a.txt", length=8).open(tmp_path, tmp_path)


def test_a_word_that_a_tokenizer_has_no_token_for_is_one_line(tmp_path: Path) -> None:
    """It reads ``a`` when it is opened; the unknown letter stands in the midst of a text."""
    write_tokenizer(tmp_path)
    file = tmp_path / "tokenizer.json"
    values = json.loads(file.read_text())
    values["model"]["unk_token"] = "gone"
    file.write_text(json.dumps(values))
    (tmp_path / "a.txt").write_text("some words \u00e9 \u4e00\n" * 9)
    with pytest.raises(DataError, match="the model's tokenizer cannot read a text"):
        TextData(text="a.txt", length=8).open(tmp_path, tmp_path)


def test_an_argument_with_escape_codes_is_repeated_without_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert squeeze("passes", "gptq", "\x1b[2Jx") == 2
    assert "\ufffd[2Jx" in capsys.readouterr().err
