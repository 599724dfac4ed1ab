"""How small a model has to be: by its bytes, and by the time for one token."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from language_world import CALIBRATED, context, plan_faults, write_folder

from squeeze.errors import DataError, ModelError
from squeeze.measure.decode import BlockSize, block_sizes, head_size
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Preview
from squeeze.passes.prune.prune_depth import PruneDepth
from squeeze.passes.prune.prune_width import PruneWidth
from squeeze.passes.prune.times import read_times
from squeeze.store import Journal

FOUR = {"num_hidden_layers": 4}


def write_times(model: LanguageModel, file: Path, widths: range) -> None:
    """A host on which a block takes as many microseconds as it has intermediate channels, the head none."""
    table = {}
    for width in widths:
        built = PruneWidth(ratio=0.5)._widths(model).built({"intermediate": width})
        (size,) = block_sizes(built)
        table[size.key()] = width * 1e-6
    out, inputs = head_size(model.skeleton)
    table[f"head_{out}x{inputs}"] = 1e-12
    file.write_text(json.dumps({"latency_table": table}))


@pytest.mark.parametrize("goal", ["70 %", "210 KB", "0.2 MiB"])
def test_a_narrower_model_keeps_no_more_bytes_than_the_goal_allows(tmp_path: Path, goal: str) -> None:
    dense = LanguageModel(write_folder(tmp_path))
    allowed = {"70 %": 0.7 * dense.nbytes(), "210 KB": 210e3, "0.2 MiB": 0.2 * 2**20}[goal]
    result = PruneWidth(size=goal, align=8).run(dense, context())
    stored = sum(value.nbytes for value in result.skeleton.module.parameters())
    assert allowed - 2 * 8 * 3 * 64 * 4 < stored <= allowed  # one step of align more would be too large


def test_a_goal_of_bytes_counts_embedding_and_head_where_the_hidden_size_is_cut(tmp_path: Path) -> None:
    dense = LanguageModel(write_folder(tmp_path))
    result = PruneWidth(size="60 %", parts=["intermediate", "hidden"], align=8).run(dense, context())
    assert result.skeleton.hidden_size < 64
    assert 0.5 * dense.nbytes() < sum(value.nbytes for value in result.skeleton.module.parameters())
    assert result.nbytes() < 0.61 * dense.nbytes()


def test_a_shallower_model_keeps_no_more_bytes_than_the_goal_allows(tmp_path: Path) -> None:
    dense = LanguageModel(write_folder(tmp_path, **FOUR))
    result = PruneDepth(size="80 %").run(dense, context())
    assert result.blocks == 3
    assert result.nbytes() < 0.8 * dense.nbytes()


def test_widths_follow_the_times_of_a_table(tmp_path: Path) -> None:
    dense = LanguageModel(write_folder(tmp_path / "model"))
    write_times(dense, tmp_path / "times.json", range(8, 97, 8))
    lent = context()
    lent.root = tmp_path
    PruneWidth(decode="60 %", latency_table="times.json", align=8).run(dense, lent)
    assert lent.facts["widths"] == {"intermediate": [96, 56]}  # 58 would be the share
    assert len(lent.measured["latency_table"]) == 13


def test_blocks_leave_until_the_times_of_a_table_are_met(tmp_path: Path) -> None:
    dense = LanguageModel(write_folder(tmp_path / "model", **FOUR))
    write_times(dense, tmp_path / "times.json", range(96, 97))
    lent = context()
    lent.root = tmp_path
    result = PruneDepth(decode="55 %", latency_table="times.json").run(dense, lent)
    assert result.blocks == 2


def test_times_are_measured_where_none_are_given_and_a_killed_run_knows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(size: BlockSize, _: int) -> float:
        return 1e-9 * sum(out * inputs for out, inputs in size.products)

    monkeypatch.setattr("squeeze.measure.decode_blocks.measure_block", measure)
    dense = LanguageModel(write_folder(tmp_path / "model", intermediate_size=1024))
    lent = replace(context(), journal=Journal(tmp_path / "journal"))
    result = PruneWidth(decode="80 %").run(dense, lent)
    times = lent.measured["latency_table"]
    assert all(seconds > 0 for seconds in times.values())
    assert result.skeleton.config.intermediate_size < 1024
    again = replace(context(), journal=Journal(tmp_path / "journal"))
    with PruneWidth(decode="80 %").times(again) as table:
        assert table.seconds == times


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: PruneWidth(decode="5 %"), "decode: 5 % cannot be reached by intermediate: about .*% is the least"),
        (lambda: PruneDepth(decode="5 %"), "decode: 5 % cannot be reached by whole blocks: about .*% is the least"),
        (lambda: PruneWidth(size="1 KB"), r"size: 1 KB cannot be reached by .*: .* KB of .* KB \(.*%\) is the least"),
        (lambda: PruneWidth(size="1 GB"), "the model has .* KB, no more than 1 GB allows; there is nothing to cut"),
    ],
)
def test_a_goal_out_of_reach_is_one_line(tmp_path: Path, make: Any, line: str) -> None:
    pass_ = make()
    model = LanguageModel(write_folder(tmp_path, **FOUR))
    (fault,) = pass_.faults(model)
    assert re.search(line, fault), fault
    with pytest.raises(ModelError, match=line):
        pass_.run(model, context())


def test_a_file_that_is_no_table_is_one_line(tmp_path: Path) -> None:
    lent = context()
    lent.root = tmp_path
    (tmp_path / "times.json").write_text("[1]")
    with pytest.raises(DataError, match=r"no latency table; a run's measurements\.json, or seconds by layer, would do"):
        PruneWidth(decode="50 %", latency_table="times.json").run(LanguageModel(write_folder(tmp_path / "m")), lent)


@pytest.mark.parametrize(
    ("goal", "line"),
    [
        ('size: "0 %"', '"0 %" is no size; "75 %" of the bytes that the model has, or "200 MB" would be'),
        ('size: "3M"', '"3M" is no size; "75 %" of the bytes'),
        ('decode: "110 %"', '"110 %" is no share of the time per token; "70 %" would be'),
        ('decode: "3 ms"', '"3 ms" is no share of the time per token; "70 %" would be'),
        ('decode: "70 %", size: "70 %"', "name one of ratio, parameters, size and decode: ratio: 0.25"),
        ('decode: "70 %", parts: [hidden]', "decode with parts: [hidden] would be too many sizes to time"),
        ("ratio: 0.5, latency_table: t.json", "latency_table goes with decode"),
        ('decode: "70 %", latency_table: t.json', "t.json"),
    ],
)
def test_a_goal_that_a_plan_writes_wrongly_is_one_line(tmp_path: Path, goal: str, line: str) -> None:
    messages = plan_faults(tmp_path, CALIBRATED + f"  - {{pass: prune_width, {goal}}}\n")
    assert any(line in fault for fault in messages), messages


def test_before_anything_is_measured_bytes_stand_in_for_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> float:
        raise AssertionError("a check measures nothing")

    monkeypatch.setattr("squeeze.measure.decode_blocks.measure_block", never)
    monkeypatch.setattr("squeeze.measure.decode_blocks.measure_head", never)
    model = LanguageModel(write_folder(tmp_path))
    before = Preview((), model.parameters(), model.nbytes(), model.macs())
    assert list(PruneWidth(decode="80 %", align=8).faults(model)) == []
    foretold = PruneWidth(decode="80 %", align=8).preview(model, before)
    assert not foretold.exact
    assert foretold.parameters is not None
    assert foretold.parameters < (before.parameters or 0)


def test_the_times_of_a_run_s_report_are_taken_for_the_same_choice(tmp_path: Path) -> None:
    report = {"rows": [{"measured": {}}, {"measured": {"latency_table": {"head_128x64": 0.5}}}, {}]}
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert read_times(tmp_path / "report.json") == {"head_128x64": 0.5}
    (tmp_path / "report.json").write_text(json.dumps({"ledger": report, "plan": {"passes": []}}))
    assert read_times(tmp_path / "report.json") == {"head_128x64": 0.5}
    (tmp_path / "other.json").write_text(json.dumps({"rows": [{"measured": {"seconds": {"pass": 1.0}}}]}))
    with pytest.raises(DataError, match="no latency table"):
        read_times(tmp_path / "other.json")
