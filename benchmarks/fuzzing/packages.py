"""What a run leaves and a stranger may hand on: packages, reports, a store."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import runpy
import zipfile
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.fuzzing import TESTS
from benchmarks.fuzzing.door import Door, WronglyAcceptedError
from benchmarks.fuzzing.models import OnnxDoor
from benchmarks.fuzzing.mutate import TEXTS, json_text, some_bytes, some_file
from benchmarks.fuzzing.plans import PLAN
from squeeze.errors import PlanError
from squeeze.models.base import Batch
from squeeze.models.onnx_model import OnnxModel
from squeeze.report.html import html_report
from squeeze.report.junit import junit_xml
from squeeze.report.markdown import markdown_report
from squeeze.report.write import read_report
from squeeze.run.claims import claim, read_ledger
from squeeze.runtimes.ort import OnnxRuntimeSession
from squeeze.targets.bench import Load, bench
from squeeze.targets.confined import Limits
from squeeze.targets.cpu import Cpu
from squeeze.targets.described import describe
from squeeze.targets.manifest import MANIFEST, canonical_json
from squeeze.targets.package import PackageInputs, write_package
from squeeze.targets.scripts import rows
from squeeze.targets.scripts.classes import Classes
from squeeze.targets.verify import open_package, verify

SHORT_PLAN = PLAN[: PLAN.index("metrics")] + "metrics: [top1]\ntargets: [{target: cpu}]\n"
CODES = (
    "\x1b]0;x\x07",
    "```\n# x",
    "<script>alert(1)</script>",
    "a|b\n\n# c",
    "\u202eabc",
    "$x^$",
    "\x9b2J",
    "$$",
    "$\\frac$",
)
NAMES = ("../x", "run.py/", "a/" * 200, "x" * 300, "C:/x", "a\\b", "m.so", "é" * 200, "\x1b[2J.json")


class PackageDoor(Door):
    """A package of the tiny network, opened as ``squeeze verify`` opens it before it runs anything."""

    name = "package"

    def write(self, folder: Path) -> None:
        OnnxDoor().write(folder)
        row = {"key": "0" * 64, "scores": {"top1": {"value": 0.5}}}
        ledger = {"scored_on": {"name": "a", "sha256": "0" * 64, "examples": 4}, "rows": [row, row]}
        golden = Batch({"image": torch.zeros(2, 3, 6, 6)})
        pieces = PackageInputs("tiny", golden, {"model": {"onnx": "m.onnx"}}, ledger, labels=["a", "b", "c", "d"])
        cpu = Cpu()
        (folder / "built").mkdir()
        artifact = cpu.build(OnnxModel.from_file(folder / "m.onnx"), folder / "built")
        write_package(pieces, cpu.name, describe(artifact, pieces.golden), folder / "p.zip")

    def spoil(self, random: Random, folder: Path) -> bool:
        path = folder / "p.zip"
        if random.random() < 0.3:
            return some_file(random, path, some_bytes)
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        name = random.choice(sorted(files))
        kind = random.randrange(4)
        if kind < 2 and name.endswith(".json"):
            files[name] = json_text(random, json.loads(files[name]))
        elif kind == 2:
            files[random.choice(NAMES)] = files.pop(name)
        else:
            files[name] = some_bytes(random, files[name])
        sealed = random.random() < 0.8
        with zipfile.ZipFile(path, "w") as archive:
            for other, data in (_sealed(files) if sealed else files).items():
                archive.writestr(other, data)
        return False

    def enter(self, folder: Path) -> object:
        package = open_package(folder / "p.zip")
        package.golden()
        return claim(read_ledger(package), "top1")


class VerifyDoor(PackageDoor):
    """The same package, run by ``squeeze verify`` in its confined process, which costs seconds."""

    name, share = "verify", 0.02

    def enter(self, folder: Path) -> object:
        return verify(open_package(folder / "p.zip"), Limits(seconds=30.0))


class BenchDoor(PackageDoor):
    """The same package, measured by ``squeeze bench`` in confined processes."""

    name, share = "bench", 0.01

    def enter(self, folder: Path) -> object:
        return bench(open_package(folder / "p.zip"), load=Load((1,), 0.1), limits=Limits(seconds=30.0))


class StandaloneDoor(Door):
    """An unpacked package that somebody runs by its own script, and what he gives it."""

    name = "standalone"

    def write(self, folder: Path) -> None:
        PackageDoor().write(folder)
        with zipfile.ZipFile(folder / "p.zip") as archive:
            archive.extractall(folder)
        np.save(folder / "x.npy", np.zeros((1, 3, 6, 6), np.float32))
        Image.new("RGB", (9, 9)).save(folder / "x.png")

    def spoil(self, random: Random, folder: Path) -> bool:
        def change(random: Random, data: bytes) -> bytes:
            return json_text(random, json.loads(data)) if data[:1] == b"{" else some_bytes(random, data)

        name = random.choice((MANIFEST, MANIFEST, "golden.npz", "model.onnx", "x.npy", "x.png"))
        arguments = random.choice((("x.npy",), ("--golden",)))
        (folder / "words.json").write_text(json.dumps((name,) if name.startswith("x.") else arguments))
        (folder / name).write_bytes(change(random, (folder / name).read_bytes()))
        return False

    def enter_good(self, folder: Path) -> None:
        for words in (("x.npy",), ("--golden",)):
            (folder / "words.json").write_text(json.dumps(words))
            self.enter(folder)
        os.chdir(folder.parent)

    def enter(self, folder: Path) -> object:
        os.chdir(folder)
        out = io.StringIO()
        with redirect_stdout(out), redirect_stderr(out):
            code = rows.main(
                OnnxRuntimeSession, Classes, [*json.loads((folder / "words.json").read_text()), "--folder", "."]
            )
        if code:
            raise PlanError(out.getvalue().rstrip("\n") or "nothing was said")
        return None


def _sealed(files: dict[str, bytes]) -> dict[str, bytes]:
    """With sums and digest that agree, as far as the manifest can still be read: whoever spoils a package can do so."""
    with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
        manifest = json.loads(files[MANIFEST])
        listed = {name: data for name, data in files.items() if name not in (MANIFEST, "measurements.json")}
        sums = {name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in listed.items()}
        manifest |= {"files": sums}
        manifest.pop("digest")
        manifest["digest"] = hashlib.sha256(canonical_json(manifest)).hexdigest()
        return files | {MANIFEST: json.dumps(manifest).encode()}
    return files


class ReportDoor(Door):
    """``report.json`` of a folder that somebody sent, drawn again."""

    name = "report"

    def write(self, folder: Path) -> None:
        small_report = runpy.run_path(str(TESTS / "report" / "conftest.py"))["small_report"]
        (folder / "report.json").write_text(json.dumps(small_report()))

    def spoil(self, random: Random, folder: Path) -> bool:
        def change(random: Random, data: bytes) -> bytes:
            values = json.loads(data)
            return (
                json.dumps(some_texts(random, values)).encode() if random.random() < 0.6 else json_text(random, values)
            )

        if random.random() < 0.05:  # pictures take a second
            (folder / "page").touch()
        return some_file(random, folder / "report.json", change)

    def enter(self, folder: Path) -> object:
        report = read_report(folder)
        pages = {"report.md": markdown_report(report), "junit.xml": junit_xml(report)}
        if (folder / "page").exists():
            pages["report.html"] = html_report(report)
        for name, text in pages.items():
            text.encode()
            text = re.sub(r"^(```+)yaml\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)  # shown as it is
            if match := re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]|<script>alert", text):
                raise WronglyAcceptedError(f"{name} holds {match[0]!a}")
        return None


def some_texts(random: Random, value: Any) -> Any:
    """Some texts of a JSON value replaced by what a terminal, a page or markdown would act on."""
    if isinstance(value, dict):
        return {key: some_texts(random, inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [some_texts(random, inner) for inner in value]
    if isinstance(value, str) and random.random() < 0.05:
        return random.choice((*CODES, *TEXTS))
    return value
