"""Make the folder that ``root`` runs programs in: a Debian without its installation, and runtimes as wheels."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from squeeze.errors import MissingExtra, SqueezeError, first_line
from squeeze.progress import Progress
from squeeze.runtimes.base import Runtime
from squeeze.targets.arm64.root import PYTHON, Arm64Root

SUITE, PYTHON_VERSION = "bookworm", "3.11"  # of Debian, and the Python in it
DEBIAN_PACKAGES = "python3,libstdc++6,libgomp1"
PLATFORMS = ("manylinux2014", *(f"manylinux_2_{minor}" for minor in range(17, 37)))  # glibc that the suite can run
FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
PROCESSOR_FILES = {  # read by runtimes to choose kernels; this machine's own would tell of another processor
    "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 50.00\n"
    f"Features\t: {FEATURES}\n"
    "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n\n",
    "sys/devices/system/cpu/possible": "0\n",
    "sys/devices/system/cpu/present": "0\n",
}


def make_root(root: Arm64Root, runtimes: Sequence[type[Runtime]], progress: Progress) -> None:
    """What is not there yet: the Linux, and each runtime in the version that is installed here.

    Each part is made beside its place and moved there whole.

    Raises:
        MissingExtra: the tool that extracts Debian is absent.
        SqueezeError: it or pip failed, with the last line that it printed.
    """
    if not (root.folder / PYTHON).exists():
        progress.say(f"Debian {SUITE} for ARM64 into {root.folder}, about 80 MB")
        _whole(root.folder, _extract)
    for runtime in runtimes:
        place = root.packages(runtime)
        if not place.is_dir():
            progress.say(f"{runtime.name} {runtime.version()} for ARM64 into {place}")
            _whole(place, partial(_install, runtime=runtime))


def _whole(place: Path, make: Callable[[Path], None]) -> None:
    part = place.with_name(f"{place.name}.part")
    if part.exists():
        shutil.rmtree(part)
    part.parent.mkdir(parents=True, exist_ok=True)
    make(part)
    part.replace(place)


def _extract(folder: Path) -> None:
    """Debian's packages for ARM64 unpacked, nothing of them run."""
    if shutil.which("mmdebstrap") is None:
        raise MissingExtra("an ARM64 Linux is made by mmdebstrap; 'apt install mmdebstrap' gives it")
    options = ["--architectures=arm64", "--variant=extract", f"--include={DEBIAN_PACKAGES}"]
    _run(["mmdebstrap", *options, SUITE, str(folder)], "mmdebstrap")
    for name, text in PROCESSOR_FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def _install(folder: Path, runtime: type[Runtime]) -> None:
    """The runtime's wheels for that processor; nothing of them runs here."""
    names = [name for name in runtime.requirements(Path("model")) if name != runtime.distribution]
    platforms = [word for name in PLATFORMS for word in ("--platform", f"{name}_aarch64")]
    target = ["--target", str(folder), "--only-binary", ":all:", "--python-version", PYTHON_VERSION, *platforms]
    wheels = [f"{runtime.distribution}=={runtime.version()}", *names]
    _run([sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", *target, *wheels], "pip")


def _run(command: Sequence[str], name: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "rror" in line or line.startswith("E:")]
        last = (lines or done.stderr.splitlines() or ["it said nothing"])[-1]
        raise SqueezeError(f"{name} failed: {first_line(ValueError(last))}")
