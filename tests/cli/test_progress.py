"""Never in the dark: a log says where the work is, a file says it to whoever asks, quiet is quiet."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from tiny import squeeze, write_plan, write_world

from squeeze.cli.terminal import BarProgress, LineProgress
from squeeze.progress import STATUS, Followed, Status, Work


def heard(capsys: pytest.CaptureFixture) -> str:
    """What is said next, however busy the host is."""
    for _ in range(1000):
        if text := capsys.readouterr().err:
            return text
        time.sleep(0.01)
    return ""


def test_in_silence_a_log_says_how_far_the_work_is_and_how_long_it_will_take(capsys: pytest.CaptureFixture) -> None:
    with LineProgress(silence_s=0.05) as progress:
        lines = [heard(capsys) for _ in progress.track(range(4), "gptq")]
    assert [line.split(",")[0] for line in lines] == [f"gptq: {done} of 4" for done in range(4)]
    assert lines[-1].splitlines()[0].endswith(" left")


def test_work_that_is_not_tracked_is_not_silent_either(capsys: pytest.CaptureFixture) -> None:
    with LineProgress(silence_s=0.05) as progress:
        progress.say("passes.1: export_onnx")
        output = heard(capsys) + heard(capsys)
    assert "still at work, " in output
    assert "since: passes.1: export_onnx" in output


def test_work_whose_steps_nobody_counts_is_named(capsys: pytest.CaptureFixture) -> None:
    with LineProgress(silence_s=0.05) as progress, progress.during("write the file"):
        line = heard(capsys).splitlines()[0]
    assert line.startswith("write the file, ")
    assert line.endswith(" s gone")


def test_nothing_is_drawn_while_a_clock_may_be_running(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("squeeze.cli.terminal._bars", lambda: pytest.fail("a bar"))
    with BarProgress(tmp_path) as progress, progress.during("time latency"):
        assert [work.what for work in progress.works] == ["time latency"]
    assert not progress.works


def test_who_speaks_often_has_no_heartbeat(capsys: pytest.CaptureFixture) -> None:
    with LineProgress(silence_s=5) as progress:
        for word in "ab":
            progress.say(word)
    assert capsys.readouterr().err == "a\nb\n"


def test_the_time_left_is_what_the_work_took_so_far_for_each_item() -> None:
    assert (
        Work("gptq", 30, began=0.0, done=10).sentence(now=60.0)
        == "gptq: 10 of 30, 1 min 0 s gone, about 2 min 0 s left"
    )
    assert Work("gptq", 30, began=0.0, done=0).sentence(now=60.0) == "gptq: 0 of 30, 1 min 0 s gone"
    assert Work("export", None, began=0.0).sentence(now=1.0) == "export, 1.0 s gone"


def test_the_status_names_the_work_under_way_and_in_the_end_what_ended_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("squeeze.progress.STATUS_S", 0)
    progress, calls = Followed(tmp_path), []
    for _ in progress.track(range(2), "rtn"):
        result = Status.read(tmp_path)
        assert result is not None
        calls += [(work.what, work.done, work.total) for work in result.works]
    assert calls == [("rtn", 0, 2), ("rtn", 1, 2)]
    progress.__exit__(ValueError, ValueError("no such thing"), None)
    result = Status.read(tmp_path)
    assert result is not None
    assert (result.works, result.ended) == ([], "no such thing")


def test_a_run_can_be_asked_about(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    plan = write_plan(write_world(tmp_path))
    assert squeeze("run", plan, "--out", tmp_path / "out", "--store", tmp_path / "store", "--quiet") == 0
    assert capsys.readouterr().err == ""
    assert squeeze("status", tmp_path / "out") == 0
    assert capsys.readouterr().out.startswith("finished (process ")


def write_status(folder: Path, **values: object) -> Path:
    known = {"pid": os.getpid(), "host": os.uname().nodename, "began": 1.0, "written": 5.0, "line": "x", "ended": None}
    works = [{"what": "gptq", "total": 30, "began": 1.0, "done": 3}]
    folder.mkdir(exist_ok=True)
    (folder / STATUS).write_text(json.dumps({**known, "works": works, **values}))
    return folder


def test_a_run_that_goes_on_and_one_that_was_killed_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert squeeze("status", write_status(tmp_path / "alive")) == 0
    running = capsys.readouterr().out
    assert running.startswith("running (process ")
    assert "gptq: 3 of 30, " in running
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert squeeze("status", write_status(tmp_path / "dead", pid=child)) == 0
    killed = capsys.readouterr().out
    assert killed.startswith("stopped: squeeze run goes on where it was (process ")
    assert "gptq" not in killed


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"pid": "x"}', '{"works": 3}', '{"works": [1]}', "\x00"], ids=lambda text: repr(text)
)
def test_what_is_no_status_is_one_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / STATUS).write_text(text)
    assert squeeze("status", tmp_path) == 2
    assert "no status.json of a run; the --out folder of squeeze run would have one" in capsys.readouterr().err


def test_every_piece_of_work_has_a_line_with_its_time_where_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    plan = write_plan(write_world(tmp_path))
    assert squeeze("run", plan, "--out", tmp_path / "out", "--store", tmp_path / "store", "--verbose") == 0
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("[") for line in lines)
    assert any(" done in " in line for line in lines)


def test_quiet_and_verbose_exclude_each_other(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert squeeze("run", write_plan(write_world(tmp_path)), "--out", tmp_path / "out", "--quiet", "--verbose") == 2
    assert capsys.readouterr().err == "--quiet and --verbose exclude each other; one of them would do\n"
    assert not (tmp_path / "out").exists()
