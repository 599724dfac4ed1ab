"""A confined process and the one that asked for it: what goes back, and what is left when one of them ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from squeeze import errors
from squeeze.errors import SqueezeError, VerifyError
from squeeze.progress import Progress
from squeeze.targets import child
from squeeze.targets.confined import Limits, Stopped, run_confined
from squeeze.targets.reports import child_progress, show_reports

ASKS = """
import signal, sys
from pathlib import Path
from squeeze.targets.confined import Limits, run_confined
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
folder = Path(sys.argv[1])
code = f"import os, time; open('{folder}/pid.part', 'w').write(str(os.getpid())); " \\
       f"os.rename('{folder}/pid.part', '{folder}/pid'); time.sleep(60)"
try:
    run_confined([sys.executable, "-c", code], Limits(), 0, folders=[folder / "temporary", folder / "package"])
except KeyboardInterrupt:
    sys.exit(130)
"""


def raises(kind: str, **_: str) -> dict[str, Any]:
    """In a child."""
    raise getattr(errors, kind)("here: what is wrong")


def counts(**_: str) -> dict[str, Any]:
    """In a child."""
    progress = child_progress()
    progress.say("begun")
    return {"sum": sum(progress.track([1, 2, 3], "adding"))}


class Recorder(Progress):
    """What a terminal would show."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def track(self, items: Iterable[Any], what: str, total: int | None = None) -> Iterator[Any]:
        self.events.append((what, total))
        for item in items:
            yield item
            self.events.append("step")

    def say(self, line: str) -> None:
        self.events.append(line)


CODES = {"DataError": 1, "PlanError": 2, "ModelError": 4}


@pytest.mark.parametrize(("kind", "code"), CODES.items())
def test_a_fault_in_a_child_keeps_its_line_and_its_exit_code(kind: str, code: int) -> None:
    """A model that does not run is the package's fault, whatever the child calls it."""
    with pytest.raises(SqueezeError, match=r"here: what is wrong$") as caught:
        child.call("test_child:raises", {"kind": kind}, Limits(), 0, "p.zip")
    assert caught.value.exit_code == code


def test_progress_in_a_child_is_shown_here() -> None:
    recorder = Recorder()
    assert child.call("test_child:counts", {}, Limits(), 0, "p.zip", recorder) == {"sum": 6}
    assert recorder.events == ["begun", ("adding", 3), "step", "step", "step"]


def test_a_report_gives_the_time_limit_anew() -> None:
    code = "import os, time\nfor _ in range(4): time.sleep(0.5); os.write(int(os.environ['SQUEEZE_REPORTS']), b'{}\\n')"
    assert run_confined([sys.executable, "-c", code], Limits(seconds=1.2), 0, progress=Progress()).code == 0
    with pytest.raises(Stopped, match=r"finished no batch within 0\.3 s"):
        run_confined([sys.executable, "-c", code], Limits(seconds=0.3), 0, progress=Progress())


@pytest.mark.parametrize(
    "report", [{}, {"begin": 7, "total": -1}, {"step": 1}, {"end": 1}, {"begin": "a", "total": "b"}, {"say": [1]}]
)
def test_reports_that_mean_nothing_are_shown_as_far_as_they_can_be(report: dict[str, Any]) -> None:
    show_reports(iter([report] * 3), Recorder())


def ended(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
def test_a_process_that_ends_leaves_no_child(tmp_path: Path, by: signal.Signals) -> None:
    """Nor an unpacked package, where no code of its own runs any more."""
    for name in ("temporary", "package"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").write_bytes(b"x")
    asking = subprocess.Popen([sys.executable, "-c", ASKS, str(tmp_path)])
    wait_for((tmp_path / "pid").exists)
    pid = int((tmp_path / "pid").read_text())
    assert not ended(pid)
    asking.send_signal(by)
    assert asking.wait() == (130 if by == signal.SIGINT else -signal.SIGKILL)
    wait_for(lambda: ended(pid))
    if by == signal.SIGKILL:
        wait_for(lambda: not any((tmp_path / name).exists() for name in ("temporary", "package")))


def test_a_killed_launcher_takes_its_command_along(tmp_path: Path) -> None:
    code = (
        f"import os; open('{tmp_path}/pids', 'w').write(f'{{os.getppid()}} {{os.getpid()}}'); os.kill(os.getppid(), 9)"
    )
    with pytest.raises(Stopped, match="ended the runtime by SIGKILL"):
        run_confined([sys.executable, "-c", code + "; import time; time.sleep(60)"], Limits(), 0)
    wait_for(lambda: ended(int((tmp_path / "pids").read_text().split()[1])))


def test_an_answer_that_is_none_is_one_line() -> None:
    with pytest.raises(VerifyError, match=r"p\.zip: the runtime's process gave no answer \(.*no_such_module"):
        child.call("no_such_module:f", {}, Limits(), 0, "p.zip")
