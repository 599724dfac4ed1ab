"""Bad inputs at every door: is each one accepted, refused in one clear line, or does something break?

    python benchmarks/fuzz.py [--inputs 3000] [--seed 0] [--jobs 2] [--only DOOR ...] [--number N] [--keep FOLDER]

An input is made by its door, the seed and its number alone: ``--only npz --seed 0 --number 17`` makes it again. Inputs
run in forked processes that have everything imported; one that hangs, dies or takes memory costs that process alone.
Exit code 1 where anything broke; what broke is left in ``--keep``.
"""

from __future__ import annotations

import os

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}  # before any import
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import argparse
import json
import logging
import math
import multiprocessing
import resource
import select
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks.fuzzing.door import Door, WronglyAcceptedError  # noqa: E402, the folder above is found first
from benchmarks.fuzzing.doors import DOORS  # noqa: E402
from squeeze.errors import PlanError, SqueezeError  # noqa: E402

CLASSES = ("clean", "line", "traceback", "hang", "memory", "accepted")
BROKEN = CLASSES[2:]
SECONDS = 20.0  # of processor time of one input
PATIENCE = 5  # times that, by the clock, on a busy machine
GOOD_SECONDS = 300.0  # of a process's first input, with all imports
GOOD = b"good\n"
MEMORY_BYTES = 3 * 2**30  # of address space beyond what the imports take
GROWTH_BYTES = 2**30  # of resident memory by one input
BATCH = 250  # inputs per forked process
Outcome = tuple[str, str]


def main() -> None:
    options = _options()
    started = time.perf_counter()
    counts: dict[str, Counter[str]] = {name: Counter() for name in options.only}
    work = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        good = {name: _good(DOORS[name](), work / "good" / name) for name in options.only}
        tasks = [(door, numbers, options.seed, good[door], work, options.keep) for door, numbers in _jobs(options)]
        with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
            for door, result in pool.imap_unordered(_run_batch, tasks):
                _count(counts[door], door, result, options.seed)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    sys.exit(_show(counts, time.perf_counter() - started, options.seed))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=3000, help="over all doors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=list(DOORS), default=list(DOORS))
    parser.add_argument("--number", type=int, help="only this input of each door")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"))
    return parser.parse_args()


def _jobs(options: argparse.Namespace) -> list[tuple[str, list[int]]]:
    if options.number is not None:
        return [(door, [options.number]) for door in options.only]
    each = numbers_by_door(options.only, options.inputs)
    starts = range(0, max(map(len, each.values())), BATCH)
    jobs = [(door, list(each[door][start : start + BATCH])) for start in starts for door in options.only]
    return [(door, batch) for door, batch in jobs if batch]


def numbers_by_door(doors: list[str], inputs: int) -> dict[str, range]:
    """Which inputs each door gets of so many over all."""
    whole = sum(DOORS[door]().share for door in doors)
    return {door: range(math.ceil(inputs * DOORS[door]().share / whole)) for door in doors}


def _good(door: Door, folder: Path) -> Path:
    """The folder of a door's good input, made once."""
    folder.mkdir(parents=True)
    pid = os.fork()  # a run starts threads, which the processes forked later must not inherit
    if pid == 0:
        try:
            _quiet()
            door.write(folder)
            os._exit(0)
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
            os._exit(1)
    if os.waitpid(pid, 0)[1]:
        sys.exit(f"{door.name}: the good input cannot be made")
    return folder


def _run_batch(task: tuple[str, list[int], int, Path, Path, Path]) -> tuple[str, list[tuple[int, Outcome]]]:
    """Outcomes of some inputs of one door; whatever ends the process that runs them ends one input."""
    door, numbers, seed, good, work, keep = task
    outcomes: list[tuple[int, Outcome]] = []
    while len(outcomes) < len(numbers):
        outcomes += _forked(door, numbers[len(outcomes) :], seed, good, work)
    for number, (kind, message) in outcomes:
        if kind in BROKEN:
            _keep(door, number, seed, good, keep, f"{kind}: {message}")
    return door, outcomes


def _forked(door: str, numbers: list[int], seed: int, good: Path, work: Path) -> list[tuple[int, Outcome]]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(door, numbers, seed, good, work, writer)
    os.close(writer)
    outcomes: list[tuple[int, Outcome]] = []
    with os.fdopen(reader, "rb", buffering=0) as stream:
        if not select.select([stream], [], [], GOOD_SECONDS)[0] or stream.readline() != GOOD:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            raise RuntimeError(f"{door}: the good input does not pass, so that bad ones would say nothing")
        while len(outcomes) < len(numbers):
            in_time = _in_time(stream, pid)
            line = stream.readline() if in_time else b""
            if line:
                outcomes.append((numbers[len(outcomes)], tuple(json.loads(line))))
                continue
            if not in_time:
                os.kill(pid, 9)
            status = os.waitpid(pid, 0)[1]
            died = _death(status) if in_time else ("hang", f"longer than {SECONDS:.0f} s")
            return [*outcomes, (numbers[len(outcomes)], died)]
    os.waitpid(pid, 0)
    return outcomes


def _in_time(stream: Any, pid: int) -> bool:
    """Whether something can be read before the process has worked too long, or waited several times as long."""
    started = _processor_seconds(pid)
    for _ in range(PATIENCE):
        if select.select([stream], [], [], SECONDS)[0]:
            return True
        if _processor_seconds(pid) - started > SECONDS:
            return False
    return False


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _death(status: int) -> Outcome:
    number = os.waitstatus_to_exitcode(status)
    return ("memory" if number in (-9, -6) else "traceback", f"the process ended with {number}")


def _child(door: str, numbers: list[int], seed: int, good: Path, work: Path, writer: int) -> None:
    _quiet()
    base = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (base + MEMORY_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory(dir=work) as name:  # what is loaded at first use is no input's cost
        shutil.copytree(good, name, dirs_exist_ok=True, symlinks=True)
        DOORS[door]().enter_good(Path(name))
    os.write(writer, GOOD)
    for number in numbers:
        outcome = judged(DOORS[door](), number, seed, good, work)
        os.write(writer, json.dumps(outcome).encode() + b"\n")
    os._exit(0)


def judged(door: Door, number: int, seed: int, good: Path, work: Path) -> Outcome:
    """Make one input, enter the door with it, and say what came of it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory(dir=work, prefix=f"{door.name}-") as name:
        folder = Path(name)
        spoiled = _spoiled(door, number, seed, good, folder)
        try:
            door.enter(folder)
        except SqueezeError as error:
            return _of_error(error)
        except WronglyAcceptedError as error:
            return "accepted", str(error)
        except MemoryError as error:
            return "memory", _last(error)
        except BaseException as error:  # whatever it is, it is what this program looks for
            return "traceback", _last(error)
        finally:
            os.chdir(work)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if grown > GROWTH_BYTES:
        return "memory", f"{grown / 1e9:.1f} GB"
    return ("accepted", "known to be bad") if spoiled else ("clean", "")


def _spoiled(door: Door, number: int, seed: int, good: Path, folder: Path) -> bool:
    shutil.copytree(good, folder, dirs_exist_ok=True, symlinks=True)
    return door.spoil(Random(f"{seed}:{door.name}:{number}"), folder)


def _of_error(error: SqueezeError) -> Outcome:
    """One line per fault, none of them empty, endless or with control characters."""
    lines = str(error).split("\n")
    several = len(lines) > 1 and not isinstance(error, PlanError)
    bad = several or any(not line.strip() or len(line) > 3000 or not line.isprintable() for line in lines)
    return ("traceback", f"no clear line: {str(error)[:200]!a}") if bad else ("line", lines[0][:300])


def _last(error: BaseException) -> str:
    own = [f for f in traceback.extract_tb(error.__traceback__) if "/squeeze/" in f.filename]
    place = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "?"
    return f"{type(error).__name__} at {place}: {str(error)[:160]!a}"


def _quiet() -> None:
    """What libraries print goes nowhere; warnings are no errors here."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)


def _keep(door: str, number: int, seed: int, good: Path, keep: Path, message: str) -> None:
    folder = keep / f"{door}-{seed}-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _spoiled(DOORS[door](), number, seed, good, folder)
    (folder / "outcome.txt").write_text(message + "\n", errors="replace")


def _count(counts: Counter[str], door: str, outcomes: list[tuple[int, Outcome]], seed: int) -> None:
    for number, (kind, message) in outcomes:
        counts[kind] += 1
        if kind in BROKEN:
            print(f"{kind:<10} --only {door} --seed {seed} --number {number}: {message}", flush=True)


def _show(counts: dict[str, Counter[str]], seconds: float, seed: int) -> int:
    total: Counter[str] = sum(counts.values(), Counter())
    print(f"\n{'door':<12}" + "".join(f"{kind:>11}" for kind in ("inputs", *CLASSES)))
    for door, row in [*counts.items(), ("all", total)]:
        print(f"{door:<12}{row.total():>11}" + "".join(f"{row[kind]:>11}" for kind in CLASSES))
    print(f"seed {seed}, {seconds:.0f} s, {total.total() / seconds:.0f} inputs per second")
    return int(any(total[kind] for kind in BROKEN))


if __name__ == "__main__":
    main()
