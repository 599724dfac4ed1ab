"""A sequence classifier from its folder to a verified package, on a table of sentences."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from package_script import run_script, unpacked
from text_world import LATENCY, PLAN, write_text_world
from tiny import faults, squeeze

from squeeze.data.sentences import SentencesData
from squeeze.targets.verify import open_package


@pytest.mark.usefixtures("in_this_process")
def test_a_text_classifier_goes_from_its_folder_to_a_verified_package(tmp_path: Path) -> None:
    write_text_world(tmp_path)
    plan = tmp_path / "plan.yaml"
    assert faults(plan) == []
    plan.write_text(PLAN.replace(LATENCY, ""))  # whose own export takes as long as all the rest
    assert squeeze("run", tmp_path / "plan.yaml", "--out", tmp_path / "out", "--store", tmp_path / "store") == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    rows = report["ledger"]["rows"]
    assert [row["name"] for row in rows] == ["original", "export_onnx", "quantize_dynamic", "cpu"]
    assert rows[1]["scores"]["flips"]["value"] == 0
    assert 0 < rows[-1]["scores"]["kl"]["value"] < 0.1
    assert {"top1", "kl", "flips", "size_bytes"} <= set(rows[0]["scores"])
    assert rows[-1]["scores"]["size_bytes"]["value"] < rows[1]["scores"]["size_bytes"]["value"]
    assert squeeze("verify", tmp_path / "out/plan-cpu.zip", "--data", tmp_path / "plan.yaml") == 0
    with zipfile.ZipFile(tmp_path / "out/plan-cpu.zip") as package:
        manifest = json.loads(package.read("manifest.json"))
    assert manifest["labels"] == ["begins", "ends"]
    assert manifest["preprocessing"] == {"tokenizer": "tokenizer.json", "length": 32, "fill": 0}
    assert_script_reads_sentences(tmp_path)


def assert_script_reads_sentences(world: Path) -> None:
    """A sentence in each line; what the script shows is what the package's model says of the same tokens."""
    zip_file = world / "out/plan-cpu.zip"
    folder = unpacked(zip_file, world / "unpacked")
    (world / "some.txt").write_text("abcde abc\n\nuvw\n")
    (world / "none.txt").write_text("\n")
    done = run_script(folder, world / "some.txt", "--json")
    data = SentencesData(sentences="some.csv", tokenizer="bert", labels=False)
    (world / "some.csv").write_text("abcde abc\nuvw\n")
    logits = open_package(zip_file).load_model().predict(data.open(world).batch(np.array([1, 0])))
    shares = [{one["class"]: one["probability"] for one in example} for example in json.loads(done.stdout)["examples"]]
    expected = logits.softmax(1)
    read = np.array([[example[0], example[1]] for example in shares])
    assert read == pytest.approx(expected.numpy(), abs=1e-3)
    assert "begins" in done.stdout
    for name, message in (("none.txt", "holds no sentence; one in each line would do"), ("gone.txt", "cannot be read")):
        bad = run_script(folder, world / name)
        assert (bad.returncode, len(bad.stderr.splitlines())) == (1, 1)
        assert message in bad.stderr
    assert "tokenizers" in (folder / "README.md").read_text()
