"""A sequence classifier from its folder to a verified package, on a table of sentences."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from text_world import LATENCY, PLAN, write_text_world
from tiny import faults, squeeze


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
