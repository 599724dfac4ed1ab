"""Commands on disks that are full or read-only, in mounts of their own: ``unshare -rm python small_disks.py FOLDER``.

Each case is a forked process with a small tmpfs. It runs a command, which must fail, takes the limit away and runs it
again. One line of JSON per case: exit codes, what was said, what was left behind.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import resource
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from random import Random

for place in (Path(__file__).parents[1], Path(__file__).parents[2]):
    sys.path.append(str(place))

from squeeze import work  # noqa: E402, the folders above are found first

READ_ONLY, REMOUNT, BIND, DETACH = 1, 32, 4096, 2  # MS_RDONLY, MS_REMOUNT, MS_BIND, MNT_DETACH
LIBC = ctypes.CDLL(None, use_errno=True)
RUN = ("run", "plan.yaml", "--out", "out", "--store", "store")
LANGUAGE = ("run", "language.yaml", "--out", "out", "--store", "store")
EXPORT = ("run", "export.yaml", "--out", "out", "--store", "store")
VERIFY = ("verify", "p.zip")
PRUNE = ("store", "prune", "--older-than", "0m", "--store", "store")
LANGUAGE_PLAN = """\
model: {hf: lm}
data:
  calibrate: {text: calibrate.txt, length: 16, samples: 8}
  evaluate: {text: evaluate.txt, length: 16}
metrics: [size]
threads: 1
passes:
  - {pass: gptq, bits: 4, group_size: 8}
"""
SIZES = dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size"), 32) | {"num_key_value_heads": 4}
Lift = Callable[[], None]


def mount(source: str, folder: Path, options: str, flags: int = 0) -> None:
    """A tmpfs on a folder, or a folder on a folder."""
    if LIBC.mount(source.encode(), str(folder).encode(), b"tmpfs", flags, options.encode()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))


def small(name: str, options: str) -> Callable[[], Lift]:
    """A small disk in place of an empty folder."""

    def limit() -> Lift:
        folder = Path(name).resolve()
        mount("tmpfs", folder, options)
        return lambda: mount("tmpfs", folder, "size=64m,nr_inodes=0", REMOUNT)

    return limit


def read_only(*names: str) -> Callable[[], Lift]:
    """Folders that nobody may write to."""

    def limit() -> Lift:
        here = Path.cwd()
        folders = [Path(name).resolve() for name in names if Path(name).is_dir()]
        for folder in folders:
            mount(str(folder), folder, "", BIND)
            mount(str(folder), folder, "", BIND | REMOUNT | READ_ONLY)
        os.chdir(here)  # where it is read-only too, if one of them lies above

        def lift() -> None:
            for folder in reversed(folders):
                LIBC.umount2(str(folder).encode(), DETACH)
            os.chdir(here)

        return lift

    return limit


def long_files(most: int) -> Callable[[], Lift]:
    """No file may be longer, in bytes."""

    def limit() -> Lift:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


@dataclass(frozen=True)
class Case:
    """What is limited, and the command that runs into it.

    Args:
        warm: The plan was carried out before: its store and its --out folder are there.
    """

    limit: Callable[[], Lift]
    command: tuple[str, ...]
    warm: bool = False


TEMPORARY = ("temporary", "/tmp", "/var/tmp", "/usr/tmp", ".")  # wherever Python looks for a temporary folder
CASES = {
    "the store's disk is full at once": Case(small("store", "size=4k"), RUN),
    "the store's disk is full after the original": Case(small("store", "size=24k"), RUN),
    "the store's disk has no inode left": Case(small("store", "nr_inodes=20"), RUN),
    "the store's disk is full in a shard": Case(small("store", "size=100k"), LANGUAGE),
    "the external data of an ONNX file is cut": Case(long_files(50_000), EXPORT),
    "the store's disk is read-only": Case(read_only("store"), RUN),
    "the store's disk is read-only and nothing can be pruned": Case(read_only("store"), PRUNE, warm=True),
    "the disk of --out is read-only": Case(read_only("out"), RUN, warm=True),
    "the disk of --out is full in the package": Case(small("out", "size=8k"), RUN),
    "the disk of --out is full in the report": Case(small("out", "size=44k"), RUN),
    "a report is drawn again on a read-only disk": Case(read_only("out"), ("report", "out", "--render"), warm=True),
    "TMPDIR is full when the confined process answers": Case(small("temporary", "size=44k"), VERIFY),
    "no temporary folder can be written": Case(read_only(*TEMPORARY), VERIFY),
}


def main(folder: Path) -> None:
    """Every case, one after the other."""
    world = write_world(folder / "world")
    for number, name in enumerate(CASES):
        print(json.dumps({"case": name} | forked(CASES[name], world, folder / f"case-{number}")), flush=True)


def write_world(folder: Path) -> Path:
    """A plan with its model and data, a tiny language model with its plan, a package, a store with the plan's work."""
    from language_world import write_folder, write_tokenizer

    from benchmarks.fuzzing.packages import SHORT_PLAN
    from benchmarks.fuzzing.plans import PlanDoor

    folder.mkdir()
    PlanDoor().write(folder)
    (folder / "plan.yaml").write_text(SHORT_PLAN)
    with redirect_stderr(io.StringIO()):
        write_folder(folder / "lm", **SIZES)
    write_tokenizer(folder / "lm")
    (folder / "language.yaml").write_text(LANGUAGE_PLAN)
    (folder / "export.yaml").write_text(LANGUAGE_PLAN[: LANGUAGE_PLAN.index("  - {pass")] + "  - {pass: export_onnx}\n")
    letters = Random(0)
    for name in ("calibrate", "evaluate"):
        (folder / f"{name}.txt").write_text("".join(letters.choices("abcdefgh .", k=600)))
    with chdir(folder):
        code, output = squeeze(*RUN)
        assert code == 0, output
        shutil.copyfile("out/plan-cpu.zip", "p.zip")
        Path("out").rename("warm-out")
        Path("store").rename("warm-store")
    return folder


def forked(case: Case, world: Path, folder: Path) -> dict[str, object]:
    """What came of one case."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            shutil.copytree(world, folder)
            os.chdir(folder)
            os.write(writer, json.dumps(tried(case)).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        result: dict[str, object] = json.loads(stream.read())
    os.waitpid(pid, 0)
    return result


def tried(case: Case) -> dict[str, object]:
    """Run into the limit; without it, run again."""
    for name in ("store", "out"):
        Path(f"warm-{name}").rename(name) if case.warm else Path(name).mkdir()
    Path("temporary").mkdir()
    os.environ["TMPDIR"] = str(Path("temporary").resolve())
    tempfile.tempdir = None
    lift = case.limit()
    code, output = squeeze(*case.command)
    end_process()
    remaining = leftovers()
    lift()
    again, said_again = squeeze(*case.command)
    end_process()
    result = {"code": code, "said": output, "left": remaining, "again": again, "said_again": said_again}
    return result | {"left_again": leftovers()}


def squeeze(*command: str) -> tuple[int, list[str]]:
    """Exit code and lines of standard error but those of progress."""
    from squeeze.cli import main as command_line

    out, err = io.StringIO(), io.StringIO()
    code = -1
    try:
        with redirect_stdout(out), redirect_stderr(err):
            command_line(list(command))
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    except BaseException:
        err.write(traceback.format_exc())
    return code, err.getvalue().splitlines()


def end_process() -> None:
    """What goes with a process goes."""
    if work._folder_of_process.cache_info().currsize:
        folder = work._folder_of_process(os.getpid())
        shutil.rmtree(folder)
        folder.with_name(f"{folder.name}{work.LOCK}").unlink()
        work._folder_of_process.cache_clear()


def leftovers() -> list[str]:
    """Work in progress that the command left."""
    places = ("store/work", "store/runs", "warm-store/work", "warm-store/runs", "temporary")
    paths = [path for place in places for path in Path(place).glob("*")]
    paths += [path for path in Path("out").glob("*") if path.name.startswith((".", "squeeze-work"))]
    return sorted(str(path) for path in paths if not path.name.startswith("torchinductor"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
