"""How long a plan will take: counted from shapes, at speeds of this host, beside what it took."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from language_world import write_folder, write_tokenizer
from tiny import squeeze, tiny_model, write_plan, write_world

from squeeze.api import compress, load
from squeeze.passes import effort
from squeeze.passes.distill.finetune import Finetune
from squeeze.passes.effort import HIGH, LOW, Amount, HostSpeed, Work, host_speed
from squeeze.passes.export.export_onnx import TRACED_BLOCK, WRITTEN_STEPS, ExportOnnx
from squeeze.passes.prune.prune_width import PruneWidth
from squeeze.passes.quantize.gptq import Gptq
from squeeze.passes.quantize.hqq import Hqq
from squeeze.passes.quantize.language.awq import Awq
from squeeze.passes.quantize.language.smooth import Smooth
from squeeze.passes.quantize.rtn import Rtn
from squeeze.plan.check import check
from squeeze.report.duration import duration_lines, span
from squeeze.report.html import html_report
from squeeze.report.markdown import markdown_report
from squeeze.report.shape import as_report
from squeeze.report.summary import summary
from squeeze.run.reporting import report_of

PLAN = """\
model: {hf: .}
data:
  calibrate: {text: calibrate.txt, length: 16, samples: 4, drop_overlap: true}
  evaluate: {text: text.txt, length: 16, samples: 4}
metrics: [perplexity, kl, size]
passes: [PASS]
"""
GPTQ, SMOOTH = "{pass: gptq, bits: 4, group_size: 16}", "{pass: smooth}"


@pytest.fixture
def world(tmp_path: Path) -> Path:
    write_folder(tmp_path)
    write_tokenizer(tmp_path)
    (tmp_path / "text.txt").write_text("abc def ghi. " * 40)
    (tmp_path / "calibrate.txt").write_text("jkl mno pqr. " * 40)
    return tmp_path


def planned(folder: Path, pass_: str = GPTQ) -> Path:
    return write_plan(folder, PLAN.replace("PASS", pass_))


def test_work_is_added_width_by_width() -> None:
    both = Work({8: 10.0}, 1.0, 2.0) + Work({8: 5.0, 64: 7.0}, 3.0, alone=1.0, rounded=4.0).times(2)
    assert both == Work({8: 20.0, 64: 14.0}, 7.0, 2.0, 2.0, 8.0)


def test_seconds_are_work_at_the_rate_of_the_nearest_narrower_product() -> None:
    speed = HostSpeed(
        {32: 1e6, 128: 2e6, 512: 4e6}, values_per_s=1e3, calls_per_s=10.0, alone_per_s=100.0, rounded_per_s=8e6
    )
    work = Work({16: 1e6, 100: 1e6, 4096: 8e6}, values=500, calls=5, alone=50, rounded=4e6)  # 1 + 1 + 2 + 4 times 0.5 s
    assert speed.seconds(work) == pytest.approx((LOW * 6, HIGH * 6))


def test_a_host_is_measured_once_in_a_process_and_products_get_faster_with_their_width() -> None:
    speed = host_speed(1)
    assert host_speed(1) is speed
    assert 0 < speed.macs_per_s[32] < 1e14
    assert speed.values_per_s > 0
    assert speed.calls_per_s > 0


@pytest.mark.parametrize(
    ("less", "more"),
    [({"refinements": 0}, {"refinements": 4}), ({"target": "given"}, {}), ({"true_sequential": False}, {})],
    ids=["refinements", "target", "true-sequential"],
)
def test_what_costs_more_is_foretold_as_more(
    world: Path, monkeypatch: pytest.MonkeyPatch, less: dict[str, object], more: dict[str, object]
) -> None:
    monkeypatch.setattr("squeeze.passes.quantize.gptq_work.KEPT_BYTES", 0)  # else one weight after the other costs less
    outline = load(planned(world)).model.outline(world)
    speed, data = HostSpeed(dict.fromkeys(effort.WIDTHS, 1e9), 1e9, 1e6), Amount(64, 128)
    works = [Gptq(group_size=16, **options).work(outline, data) for options in (less, more)]
    assert all(work is not None for work in works)
    cheap, dear = (speed.seconds(work)[0] for work in works if work is not None)
    assert cheap < dear


@pytest.mark.parametrize(
    ("less", "more"),
    [
        (Awq(group_size=16, scale=False), Awq(group_size=16)),
        (Awq(group_size=16, clip=False), Awq(group_size=16)),
        (Rtn(group_size=16), Hqq(group_size=16)),
        (PruneWidth(ratio=0.5, align=8, target="given"), PruneWidth(ratio=0.5, align=8)),
        (PruneWidth(ratio=0.5, align=8), PruneWidth(ratio=0.5, align=8, parts=("intermediate", "heads"))),
    ],
    ids=["scales", "ranges", "rounds", "target", "parts"],
)
def test_other_passes_too_foretell_more_where_more_is_done(world: Path, less: Any, more: Any) -> None:
    outline = load(planned(world)).model.outline(world)
    speed, data = HostSpeed(dict.fromkeys(effort.WIDTHS, 1e9), 1e9, 1e6), Amount(64, 128)
    cheap, dear = (speed.seconds(pass_.work(outline, data))[0] for pass_ in (less, more))
    assert 0 < cheap < dear


def test_an_export_is_foretold_by_blocks_and_weights(world: Path) -> None:
    outline = load(planned(world)).model.outline(world)
    work = ExportOnnx().work(outline, None)
    assert work is not None
    assert work.calls == TRACED_BLOCK * outline.blocks
    assert work.alone == WRITTEN_STEPS * outline.parameters()
    assert ExportOnnx().work(tiny_model(), None) is None  # an image model's takes a moment


def test_a_training_takes_three_forward_passes_of_every_example() -> None:
    model = tiny_model()
    macs = model.macs()
    assert macs is not None
    work = Finetune(epochs=2).work(model, Amount(50))
    assert work is not None
    assert sum(work.products.values()) == 3 * macs * 2 * 50
    assert Finetune(epochs=2).work(model, None) is None


def test_a_pass_that_cannot_tell_says_nothing(world: Path) -> None:
    outline = load(planned(world)).model.outline(world)
    assert Smooth().work(outline, Amount(4, 16)) is None


def test_a_check_without_explain_measures_nothing(world: Path) -> None:
    host_speed.cache_clear()
    assert squeeze("check", planned(world)) == 0
    assert squeeze("check", planned(world), "--json") == 0
    assert not host_speed.cache_info().currsize
    assert squeeze("check", planned(world), "--explain") == 0
    assert host_speed.cache_info().currsize


def test_explain_prints_an_estimate_and_says_that_it_is_one(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert squeeze("check", planned(world), "--explain") == 0
    assert "estimated time: " in (whole := capsys.readouterr().out)
    assert "at least" not in whole
    assert squeeze("check", planned(world, SMOOTH), "--explain") == 0
    assert "estimated time: at least" in capsys.readouterr().out


def test_explain_as_json_has_seconds(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert squeeze("check", planned(world), "--explain", "--json") == 0
    output = json.loads(capsys.readouterr().out)
    least, most = output["passes"][0]["seconds"]["pass"]
    assert 0 < least < most
    assert output["seconds"]["of_all"] is True
    assert output["seconds"]["most"] > most


def test_reports_show_what_was_foretold_beside_what_it_took(world: Path) -> None:
    plan = load(planned(world))
    report = report_of(compress(plan, store=world / "store"), world)
    (original, gptq) = duration_lines(as_report(report))
    assert original.startswith("original: scoring ")
    assert gptq.startswith("gptq: took ")
    assert gptq.count("foretold") == 2
    assert "## How long it took" in markdown_report(report)
    assert "<h2>How long it took</h2>" in html_report(report)
    assert any(gptq in str(line) for line in summary(report).renderables)


def test_what_comes_from_the_store_has_no_time(world: Path) -> None:
    plan = load(planned(world))
    compress(plan, store=world / "store")
    again = compress(plan, store=world / "store")
    assert not any("seconds" in row.measured for row in again.ledger.rows)


def test_times_stay_out_of_what_must_be_the_same_bytes(tmp_path: Path) -> None:
    run = compress(load(write_plan(write_world(tmp_path))), store=tmp_path / "store")
    assert "seconds" in run.ledger.rows[1].measured
    assert "seconds" not in json.dumps(run.ledger.to_json(timings=False))


def test_a_span_whose_ends_read_alike_is_one() -> None:
    assert (span(0.01, 0.02), span(3.0, 75.0)) == ("under 0.1 s", "3.0 s to 1 min 15 s")


def test_what_a_pass_takes_is_foretold_of_the_model_that_it_is_given(world: Path) -> None:
    """A preview makes the outline as narrow as the result; the work and the memory are the whole one's."""
    pass_ = PruneWidth(ratio=0.5, align=8)
    (row,) = check(load(planned(world, "{pass: prune_width, ratio: 0.5, align: 8}"))).explained
    whole = load(planned(world)).model.outline(world)
    assert row.effort.of_pass == pass_.work(whole, Amount(4, 16))
    assert row.memory_bytes == pass_.memory_bytes(whole, 4 * 16, None, whole.nbytes())


def test_check_keeps_efforts_of_every_row(world: Path) -> None:
    checked = check(load(planned(world)))
    assert all(work is not None for one in checked.efforts for work in (one.of_pass, one.scoring))


def test_scoring_endings_is_foretold_and_takes_more_the_more_there_are(world: Path) -> None:
    pair = {"sentence_good": "the quick brown fox", "sentence_bad": "the fox quick brown"}
    efforts = []
    for count in (0, 1, 10):
        (world / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for _ in range(count)))
        metrics = "metrics: [perplexity, kl, size" + (", {choice: {data: {pairs: pairs.jsonl}}}]" if count else "]")
        plan = load(write_plan(world, PLAN.replace("PASS", GPTQ).replace("metrics: [perplexity, kl, size]", metrics)))
        checked = check(plan)
        assert not checked.faults
        assert list(checked.own) == (["choice:pairs"] if count else [])
        efforts.append([effort.scoring for effort in checked.efforts])
    products = [[sum(work.products.values()) for work in works if work is not None] for works in efforts]
    assert [len(rows) for rows in products] == [2, 2, 2]
    (none, one, ten) = (rows[0] for rows in products)
    assert ten - none == pytest.approx(10 * (one - none))
    assert one > none


def test_endings_that_cannot_be_read_are_a_fault_of_the_check(world: Path) -> None:
    (world / "pairs.jsonl").write_text('{"sentence_good": "so"}\n')
    text = PLAN.replace("PASS", GPTQ).replace("[perplexity, kl, size]", "[{choice: {data: {pairs: pairs.jsonl}}}]")
    (fault,) = check(load(write_plan(world, text))).faults
    assert "sentence_bad" in fault.message


RTN = "{pass: rtn, bits: 8, group_size: 16}"


def test_what_branches_have_in_common_is_foretold_once(world: Path) -> None:
    branches = "".join(f"\n  - {{name: {name}, passes: [{p}]}}" for name, p in (("a", GPTQ), ("b", GPTQ), ("c", RTN)))
    plan = load(write_plan(world, PLAN.replace("passes: [PASS]", f"targets:{branches}")))
    checked, one = check(plan), check(load(planned(world)))
    assert [row.again for row in checked.explained] == [False, True, False]
    assert len(checked.efforts) == 3  # the original, and two different passes
    assert checked.efforts[1] == one.efforts[1]


@pytest.mark.parametrize(
    ("columns", "columns_left_out"), [(170, []), (120, ["layers"]), (100, ["layers", "form"])], ids=str
)
def test_a_narrow_terminal_leaves_columns_out_and_cuts_no_number(
    world: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    columns: int,
    columns_left_out: list[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert squeeze("check", planned(world), "--explain") == 0
    table = capsys.readouterr().out.split("gptq: needs calibration; layers")[0].split("the store keeps")[0]
    assert "…" not in table
    assert [name for name in ("layers", "form") if name not in table.splitlines()[1]] == columns_left_out
