"""Data: arrays, images, texts, tables and questions."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path
from random import Random
from typing import ClassVar

import numpy as np
from language_world import write_tokenizer
from PIL import Image

from benchmarks.fuzzing.door import Door
from benchmarks.fuzzing.mutate import NUMBERS, TEXTS, some_bytes, some_file, some_text
from squeeze.data.choice_sources import PairsData, QuestionsData
from squeeze.data.sentences import SentencesData
from squeeze.data.sources import FolderData, NpzData
from squeeze.data.text import TextData
from squeeze.errors import PlanError


class NpzDoor(Door):
    name = "npz"

    def write(self, folder: Path) -> None:
        images = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 3), dtype=np.uint8)
        np.savez(folder / "a.npz", images=images, labels=np.arange(12) % 4)

    def spoil(self, random: Random, folder: Path) -> bool:
        return some_file(random, folder / "a.npz", self._change)

    def enter(self, folder: Path) -> object:
        return NpzData(npz="a.npz", samples=4).open(folder).batch(np.arange(2))

    def _change(self, random: Random, data: bytes) -> bytes:
        if random.random() < 0.4:
            return some_bytes(random, data)
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
            for name, size in (("images", 1296), ("labels", 96)):
                shape = [random.choice((0, 1, 6, 12, -1, 10**6, 2**40)) for _ in range(random.randrange(5))]
                kind = random.choice(("|u1", "<f4", "<i8", "|O", "<U9", ">f2", "<c8", "?", "|V0"))
                sizes = ",".join(map(str, shape))
                header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({sizes},), }}\n".encode()
                body = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(size)
                archive.writestr(f"{name}.npy", some_bytes(random, body) if random.random() < 0.3 else body)
        return out.getvalue()


class ImageDoor(Door):
    name = "image"

    def write(self, folder: Path) -> None:
        for number, ending in enumerate(("png", "jpg", "bmp", "gif", "webp")):
            path = folder / "t" / f"class{number % 2}" / f"{number}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20), (number * 40, 9, 200)).save(path)

    def spoil(self, random: Random, folder: Path) -> bool:
        files = sorted((folder / "t").rglob("*.*"))
        if random.random() < 0.2:  # a header that claims much
            png = next(path for path in files if path.suffix == ".png")
            size = random.choice((0, 13_000, 60_000, 2**31 - 1)).to_bytes(4, "big")
            data = png.read_bytes()
            png.write_bytes(data[:16] + size + size + data[24:])
        else:
            some_file(random, random.choice(files), some_bytes)
        return False

    def enter(self, folder: Path) -> object:
        images = FolderData(folder="t", resize=16, crop=8).open(folder)
        return images.batch(np.arange(len(images)))


class TableDoor(Door):
    """Texts, tables and questions."""

    name = "table"
    files: ClassVar[dict[str, str]] = {
        "a.tsv": "a sentence\t1\nanother one\t0\n" * 3,
        "a.csv": '"a sentence",1\nanother one,0\n' * 3,
        "a.txt": "some words of a text\n" * 20,
        "a.jsonl": '{"text": "some words", "sentence_good": "a b", "sentence_bad": "b a"}\n' * 9,
        "a.json": '[{"question": "how", "options": ["so", "thus"], "answer": 1}]',
    }

    def write(self, folder: Path) -> None:
        write_tokenizer(folder)
        for name, text in self.files.items():
            (folder / name).write_text(text)
        (folder / "a.txt.gz").write_bytes(gzip.compress(b"some words\n" * 50))

    def spoil(self, random: Random, folder: Path) -> bool:
        path = folder / random.choice((*self.files, "a.txt.gz"))
        (folder / "which").write_text(path.name)
        return some_file(random, path, self._change)

    def enter_good(self, folder: Path) -> None:
        for name in (*self.files, "a.txt.gz"):
            (folder / "which").write_text(name)
            self.enter(folder)

    def enter(self, folder: Path) -> object:
        name = (folder / "which").read_text()
        sources = {
            ".tsv": [SentencesData(sentences=name, tokenizer=".")],
            ".csv": [SentencesData(sentences=name, tokenizer=".")],
            ".jsonl": [TextData(text=name, length=4), PairsData(pairs=name)],
            ".json": [QuestionsData(questions=name)],
        }
        for source in sources.get(Path(name).suffix, [TextData(text=name, length=4)]):
            if faults := list(source.faults(folder)):  # type: ignore[attr-defined]
                raise PlanError("; ".join(faults))
            source.open(folder, folder)  # type: ignore[attr-defined]
        return None

    def _change(self, random: Random, data: bytes) -> bytes:
        if random.random() < 0.4 or data[:1] == b"\x1f":
            return some_bytes(random, data)
        return some_text(random, data.decode(), (*TEXTS, *map(str, NUMBERS), '"', "\t\t", ",,")).encode(
            errors="replace"
        )
