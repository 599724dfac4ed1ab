"""What the check foretells of sizes and memory is what comes out; benchmarks/foretold.py measures it on real models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from language_world import write_folder, write_tokenizer
from tiny import on_disk, squeeze, write_plan

from squeeze.api import compress, load
from squeeze.plan.check import check

PLAN = """\
model: {hf: .}
data: {evaluate: {text: text.txt, length: 16, samples: 12}}
metrics: [perplexity, size]
targets:
  - target: cpu
    passes: [{pass: rtn, bits: 4, group_size: 16}, {pass: export_onnx}]
"""
pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model that is nearly all vocabulary."""
    folder = tmp_path_factory.mktemp("wide")
    write_folder(folder, vocab_size=8_000, tie_word_embeddings=True)
    write_tokenizer(folder)
    (folder / "text.txt").write_text("abc def ghi. " * 40)
    return folder


@pytest.mark.parametrize("tables", ["", ", embeddings: 8"], ids=["float tables", "tables in 8 bits"])
def test_sizes_and_the_store_are_foretold(wide: Path, tmp_path: Path, tables: str) -> None:
    plan = load(write_plan(wide, PLAN, ("group_size: 16", f"group_size: 16{tables}")))
    checked = check(plan)
    run = compress(plan, store=tmp_path, out=tmp_path / "out")
    measured = [row.scores["size_bytes"].value for row in run.ledger.rows]
    assert [row.preview.nbytes for row in checked.explained] == pytest.approx(measured[1:3], rel=0.02)
    assert checked.cost is not None
    assert checked.cost.store_bytes == pytest.approx(on_disk(tmp_path / "entries"), rel=0.1)


def test_the_share_of_untouched_bytes_is_a_fact(wide: Path, tmp_path: Path) -> None:
    fact = compress(load(write_plan(wide, PLAN)), store=tmp_path).ledger.rows[1].facts["untouched"]
    assert fact["share"] > 0.9
    assert fact["largest"][0][0] == "model.embed_tokens.weight"


GRID = "bits: 4, group_size: 16"
STAY = ["sparsify, ratio: 0.5", f"rtn, {GRID}", f"awq, {GRID}", "prune_width, ratio: 0.25"]
GO = ["prune_depth, ratio: 0.5", "smooth", "rotate", f"rtn, {GRID}, embeddings: 8", "finetune, steps: 1"]


@pytest.mark.parametrize("pass_", STAY + GO)
def test_a_pass_says_whether_tables_stay_in_the_files_before(wide: Path, tmp_path: Path, pass_: str) -> None:
    """Behind a pass that puts the tables into files of their own."""
    data = "data: {evaluate: {text: text.txt, length: 16, samples: 12}"
    others = "calibrate: {text: other.txt, length: 16, samples: 4}, train: {text: other.txt, length: 16, samples: 4}}"
    (wide / "other.txt").write_text("jkl mno pqr. " * 40)
    text = PLAN.split("targets:")[0].replace(data + "}", f"{data}, {others}")
    plan = load(write_plan(wide, f"{text}passes: [{{pass: sparsify, ratio: 0.25}}, {{pass: {pass_}}}]\n"))
    (foretold,) = check(plan).explained[1:]
    rows = compress(plan, store=tmp_path).ledger.rows[1:]
    old, new = ([path.stat() for path in (tmp_path / "entries" / row.key).rglob("*.safetensors")] for row in rows)
    shared = sum(file.st_size for file in new if file.st_ino in {other.st_ino for other in old})
    assert foretold.linked_bytes == pytest.approx(shared, rel=0.01)
    assert (shared > 0) == (pass_ in STAY)


def test_tables_that_stay_float_are_named_with_the_option_that_takes_them(wide: Path) -> None:
    plan = load(write_plan(wide, PLAN))
    (warning,) = plan.located(check(plan).warnings)
    assert warning.line == 6
    assert "are model.embed_tokens.weight, kept in float; embeddings: 8 would" in warning.message
    plan = load(write_plan(wide, PLAN.replace("bits: 4", "bits: 4, embeddings: 8")))
    assert not check(plan).warnings


def test_an_export_takes_memory_for_the_weights_that_are_left_by_then(
    wide: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert squeeze("check", write_plan(wide, PLAN), "--json") == 0
    output = json.loads(capsys.readouterr().out)
    quantized, export = output["passes"]
    assert export["memory_bytes"] - 3 * quantized["preview"]["nbytes"] == pytest.approx(450e6, rel=0.2)
    assert output["cost"]["memory_bytes"] >= export["memory_bytes"]
