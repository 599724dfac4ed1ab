"""A plan that limits the disk: what nothing needs any more goes, and every number stays."""

from __future__ import annotations

import re
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from language_world import write_folder
from tiny import faults, on_disk, squeeze, write_plan
from tokenizer_world import TOKENIZERS

from squeeze.api import compress, load
from squeeze.models.base import Batch
from squeeze.plan.check import check
from squeeze.run.result import Run
from squeeze.store import Store

PLAN = """\
model: {hf: .}
data: {evaluate: {text: text.txt, length: 16, samples: 12}}
metrics: [perplexity, kl, size]
disk: 8MB
targets:
  - {name: rtn, passes: [{pass: rtn, bits: 4, group_size: 32}]}
  - {name: rtn-3, passes: [{pass: rtn, bits: 3, group_size: 32}]}
  - {target: cpu, name: onnx, passes: [{pass: rtn, bits: 4, group_size: 32}, {pass: export_onnx}]}
  - {name: rtn-2, passes: [{pass: rtn, bits: 2, group_size: 32}]}
"""
pytestmark = pytest.mark.usefixtures("in_this_process")
WITHOUT = ("disk: 8MB\n", "")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("room")
    write_folder(folder, vocab_size=4_000, tie_word_embeddings=True)
    TOKENIZERS["gpt-2"]().save(str(folder / "tokenizer.json"))
    (folder / "text.txt").write_text("abc def ghi. " * 40)
    return folder


def carried_out(world: Path, store: Store | Path, *changes: tuple[str, str], out: Path | None = None) -> Run:
    return compress(load(write_plan(world, PLAN, *changes)), store=store, out=out)


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A folder with the store and the package that the plan leaves, and the run."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, carried_out(world, folder / "store", out=folder / "out")


@pytest.fixture
def first(finished: tuple[Path, Run], tmp_path: Path) -> Run:
    """The plan was carried out in this test's folder."""
    folder, run = finished
    copytree(folder, tmp_path, dirs_exist_ok=True)
    return run


def models(store: Path) -> set[str]:
    """What the store calls the models whose weights it holds."""
    held = (entry for entry in Store(store).entries() if any((entry.folder / "model").rglob("*")))
    return {f"{entry.what} {entry.made_from['inputs'].get('options', {}).get('bits', '')}".strip() for entry in held}


def rows(run: Run) -> Any:
    return run.ledger.to_json(timings=False)


def test_models_that_nothing_needs_go_and_every_number_stays(world: Path, tmp_path: Path) -> None:
    whole = carried_out(world, tmp_path / "whole", WITHOUT, out=tmp_path / "out")
    small = carried_out(world, tmp_path / "small", out=tmp_path / "out")
    assert rows(small) == rows(whole)
    assert small.layers == whole.layers
    assert models(tmp_path / "whole") == {"original", "rtn 2", "rtn 3", "rtn 4", "export_onnx", "target cpu"}
    assert models(tmp_path / "small") == {"original"}
    assert set(small.models) == {None}  # the original: the trunk is empty
    assert 2 * on_disk(tmp_path / "small") < on_disk(tmp_path / "whole")
    assert ("disk", "kept") in [(one.bound.metric, one.outcome) for _, one in small.judgements]


def test_the_most_that_the_store_holds_is_foretold(world: Path, first: Run) -> None:
    cost = check(load(write_plan(world, PLAN))).cost
    assert cost is not None
    assert first.peak_store_bytes == pytest.approx(cost.store_bytes, rel=0.1)


def test_a_second_run_makes_nothing_and_verifies_the_package_that_is_there(
    world: Path, tmp_path: Path, first: Run
) -> None:
    written = (tmp_path / "out/plan-onnx.zip").stat().st_mtime_ns
    store = Store(tmp_path / "store")
    second = carried_out(world, store, out=tmp_path / "out")
    assert store.made == 0
    assert rows(second) == rows(first)
    assert second.layers == first.layers
    assert second.packages["onnx"].digest == first.packages["onnx"].digest
    assert (tmp_path / "out/plan-onnx.zip").stat().st_mtime_ns == written


def test_a_package_that_is_gone_or_another_is_written_anew(world: Path, tmp_path: Path, first: Run) -> None:
    (tmp_path / "out/plan-onnx.zip").unlink()
    assert carried_out(world, tmp_path / "store", out=tmp_path / "out").packages["onnx"].digest
    again = carried_out(world, tmp_path / "store", ("metrics: [", "metrics: [parameters, "), out=tmp_path / "out")
    assert again.packages["onnx"].digest != first.packages["onnx"].digest  # its ledger has one more number


@pytest.mark.usefixtures("first")
def test_what_a_changed_plan_begins_from_is_made_again(world: Path, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama.cpp is not installed: pip install 'squeeze[llama-cpp]'")
    more = "  - {target: gguf, name: gguf, passes: [{pass: rtn, bits: 4, group_size: 32}]}\n"
    changed = ("  - {name: rtn-2,", f"{more}  - {{name: rtn-2,")
    assert rows(carried_out(world, tmp_path / "store", changed)) == rows(carried_out(world, tmp_path / "new", changed))


@pytest.mark.usefixtures("first")
def test_a_plan_without_the_limit_gets_its_models_back(world: Path, tmp_path: Path) -> None:
    run = carried_out(world, tmp_path / "store", WITHOUT, ("[perplexity, kl, size]", "[perplexity, kl, flips]"))
    assert set(run.ledger.rows[1].scores) == {"perplexity", "kl", "flips"}
    assert run.ledger.rows[1].scores["flips"].value == pytest.approx(
        carried_out(world, tmp_path / "new", WITHOUT, ("kl, size", "kl, flips")).ledger.rows[1].scores["flips"].value
    )


def test_models_that_were_released_can_be_used_timed_and_held_against_a_device_later(
    world: Path, tmp_path: Path, first: Run
) -> None:
    """By plans that do not limit the disk, on the store of one that did."""
    assert set(first.models) == {None}
    device = ("name: onnx,", "name: onnx, device: phone-entry,")
    timed = ("size]", "size, decode: {seconds: 0.05, sessions: 4, prompt: 4, new: 4}]")
    run = carried_out(world, tmp_path / "store", WITHOUT, device, timed, out=tmp_path / "out")
    assert "RAM" in run.ledger.rows[-2].facts["device"]
    assert run.ledger.rows[-2].timings["decode"].value
    prompt = Batch({"input_ids": torch.arange(8)[None]})
    fresh = carried_out(world, tmp_path / "new", WITHOUT)
    assert torch.equal(run.models["rtn"].predict(prompt), fresh.models["rtn"].predict(prompt))


def test_a_store_that_cannot_be_written_is_read_and_left_alone(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried_out(world, tmp_path / "store", WITHOUT)
    before, store = models(tmp_path / "store"), Store(tmp_path / "store")
    monkeypatch.setattr(store, "writable", False)
    run = carried_out(world, store)
    assert models(tmp_path / "store") == before
    assert run.peak_store_bytes is None  # nothing of it is this run's, and nothing is judged
    assert "disk" not in {one.bound.metric for _, one in run.judgements}


def test_what_another_run_uses_stays(world: Path, tmp_path: Path) -> None:
    """The other run holds the models of the same plan."""
    plan, other = load(write_plan(world, PLAN)), Store(tmp_path / "store")
    elsewhere = compress(plan, store=Store(tmp_path / "elsewhere"), out=None)
    with other.run():
        other.hold(*(row.key for row in elsewhere.ledger.rows))
        carried_out(world, tmp_path / "store", out=tmp_path / "out")
        assert "rtn 4" in models(tmp_path / "store")
    carried_out(world, tmp_path / "store", out=tmp_path / "out")
    assert models(tmp_path / "store") == {"original"}


def test_files_of_a_target_stay_where_no_package_holds_them(world: Path, tmp_path: Path) -> None:
    run = carried_out(world, tmp_path / "store")
    assert set(run.models) == {None, "onnx"}
    assert "target cpu" in models(tmp_path / "store")


BAD = {
    "disk: 8MB": ("disk: lots", r"^4: disk: 'lots' cannot be read; 4GB or 1500MB would do"),
    "disk: 8MB ": ("disk: 0MB", r"^4: disk: '0MB' cannot be read"),
    "disk: 8MB  ": (
        "disk: 20KB",
        r"^4: disk: 20.0 KB is less than the .* MB that the store holds at once; disk: \d+MB would",
    ),
    "disk: 8MB   ": ("disk: -1GB", r"^4: disk: '-1GB' cannot be read"),
    "size]": ("{decode: {seconds: 0.1}}]", r"^4: disk: does not go with decode: what is released .* leave out decode"),
}


@pytest.mark.parametrize(("old", "bad"), list(BAD.items()), ids=[new for new, _ in BAD.values()])
def test_a_limit_that_cannot_be_kept_is_a_fault_of_its_line(world: Path, old: str, bad: tuple[str, str]) -> None:
    messages = faults(write_plan(world, PLAN, (old.strip(), bad[0])))
    assert any(re.search(bad[1], message) for message in messages), messages


def test_the_report_says_how_much_the_store_held(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = write_plan(world, PLAN)
    assert squeeze("run", plan, "--out", tmp_path / "out", "--store", tmp_path / "store") == 0
    printed = capsys.readouterr().out
    assert re.search(r"of memory, [\d.]+ [KM]B in the store", printed)
    assert re.search(r"budget: disk: <= 8,000,000 bytes: measured [\d,]+: kept", printed)
