"""Kill runs at random moments, with ``store prune`` beside: the next run must end with the very same bytes.

    python benchmarks/kills.py [--kills 1000] [--seed 0] [--in-a-row 5] [--plant]

Runs are forked from a process that has everything imported: a kill (SIGKILL) costs a fraction of a second. After
each series of kills the same command runs undisturbed; then its bytes, the temporary folder, --out and the store's work
and locks are looked at. Exit code 1 where bytes differ, a run failed or something was left behind. ``--plant`` changes
one byte of what the last run of each series made: the benchmark must count every one of them, or it is blind.
"""

from __future__ import annotations

import os

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}  # before any import

import argparse
import hashlib
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "cli")]

import torch  # noqa: E402, after the environment
from filelock import FileLock, Timeout  # noqa: E402
from small_disks import squeeze, write_world  # noqa: E402, the folders above are found first

from squeeze.passes.quantize import gptq  # noqa: E402, F401, imported once, not by each run
from squeeze.run import run as _  # noqa: E402, F401

PHASES = {
    "image plan": ("run", "plan.yaml", "--store", "store"),
    "language model": ("run", "language.yaml", "--store", "store"),
    "packing": ("run", "plan.yaml", "--store", "packed"),  # its store is warm
    "verify": ("verify", "p.zip"),
}
PRUNE = ("store", "prune", "--older-than", "0m", "--store", "store")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--in-a-row", type=int, default=5, help="kills before each undisturbed run")
    parser.add_argument("--plant", action="store_true", help="change one byte of each last run: all must be counted")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # the world's folder goes, too
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        world = ready(Path(name))
        random = Random(options.seed)
        while sum(counts[phase] for phase in PHASES) < options.kills:
            for phase in PHASES:
                counts += series(phase, world, random, options.in_a_row, options.plant)
                print(", ".join(f"{what}: {counts[what]}" for what in (*PHASES, *WRONG)), flush=True)
    sys.exit(any(counts[what] for what in WRONG))


WRONG = ("wrong bytes", "failures", "leftovers")


def ready(folder: Path) -> Path:
    """Plans, models and data, made in a process of its own: what it starts is not forked along."""
    world = folder / "world"
    assert wait(start(lambda: bool(write_world(world)) and 0, folder)) == 0, "the world cannot be made"
    (world / "warm-store").rename(world / "packed")
    shutil.rmtree(world / "warm-out")
    return world


def series(phase: str, world: Path, random: Random, in_a_row: int, plant: bool) -> Counter[str]:
    """Some kills of one command, and the run after them."""
    counts: Counter[str] = Counter()
    folder = shutil.copytree(world, world.parent / "series")
    command = (*PHASES[phase], *(("--out", "out") if PHASES[phase][0] == "run" else ()))
    whole, seconds = undisturbed(command, world)
    for _kill in range(in_a_row):
        run = start(lambda: squeeze_in(command, folder), folder)
        beside = start(lambda: squeeze_in(PRUNE, folder), folder)
        time.sleep(random.uniform(0.0, seconds))
        os.kill(run, 9)
        counts[phase] += os.waitstatus_to_exitcode(os.waitpid(run, 0)[1]) == -9
        counts["failures"] += wait(beside) != 0
    again = start(lambda: squeeze_in(command, folder), folder)
    beside = start(lambda: squeeze_in(PRUNE, folder), folder)
    counts["failures"] += wait(again) != 0
    counts["failures"] += wait(beside) != 0
    counts["failures"] += wait(start(lambda: squeeze_in(command, folder), folder)) != 0  # what was pruned at the end
    if plant:
        flip_a_byte(random.choice(stored_files(folder)), random)
    counts["wrong bytes"] += outcome(folder) != whole
    remaining = leftovers(folder)
    counts["leftovers"] += len(remaining)
    if remaining:
        print(f"{phase}: left {remaining}", flush=True)
    shutil.rmtree(folder)
    return counts


KNOWN: dict[tuple[str, ...], tuple[dict[str, str], float]] = {}


def undisturbed(command: tuple[str, ...], world: Path) -> tuple[dict[str, str], float]:
    """What a run that nobody kills ends with, and its seconds."""
    if command not in KNOWN:
        folder = shutil.copytree(world, world.parent / "undisturbed")
        began = time.monotonic()
        assert wait(start(lambda: squeeze_in(command, folder), folder)) == 0, f"{command} fails by itself"
        KNOWN[command] = outcome(folder), time.monotonic() - began
        shutil.rmtree(folder)
    return KNOWN[command]


def start(what: Callable[[], int], folder: Path) -> int:
    """Call it in a forked process with a temporary folder of the series; gives the process's number."""
    temporary = folder / "temporary"
    temporary.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
        code = what()
    finally:
        from small_disks import end_process

        end_process()
        os._exit(code)


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def squeeze_in(command: tuple[str, ...], folder: Path) -> int:
    """The command's exit code; what it says, where it fails."""
    os.chdir(folder)
    (folder / "store").mkdir(exist_ok=True)
    torch.set_num_threads(1)
    code, output = squeeze(*command)
    if code:
        print(f"{' '.join(command)}: exit code {code}: {output[-1:]}", flush=True)
    return code


def stored_files(folder: Path) -> list[Path]:
    """What passes and targets left in the stores."""
    stores = [folder / name / "entries" for name in ("store", "packed")]
    return sorted(path for store in stores for path in store.rglob("*") if path.is_file() and "model" in path.parts)


def flip_a_byte(path: Path, random: Random) -> None:
    data = bytearray(path.read_bytes())
    data[random.randrange(len(data))] ^= 1
    path.write_bytes(data)


def outcome(folder: Path) -> dict[str, str]:
    """sha256 of what passes and targets made, by place in the store; scores and their evidence are in it."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in stored_files(folder)}
    for package in (folder / "out").glob("*.zip"):
        with zipfile.ZipFile(package) as archive:
            files[package.name] = archive.read("manifest.json")  # the sums of all else but measurements
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def leftovers(folder: Path) -> list[str]:
    """Work in progress that is still there, and locks that somebody holds."""
    places = ("store/work", "store/journals", "store/runs", "packed/work", "packed/runs", "temporary")
    paths = [path for place in places for path in (folder / place).glob("*")]
    paths += [path for path in (folder / "out").glob("*") if path.name.startswith((".", "squeeze-work"))]
    paths = [path for path in paths if not path.name.startswith("torchinductor")]  # torch's cache
    return [str(path.relative_to(folder)) for path in paths] + [
        f"held: {path.name}" for path in folder.glob("*/locks/*.lock") if is_locked(path)
    ]


def is_locked(path: Path) -> bool:
    try:
        with FileLock(path).acquire(timeout=0):
            return False
    except Timeout:
        return True


if __name__ == "__main__":
    main()
