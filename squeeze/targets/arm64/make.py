"""Make the folder that ``root`` runs programs in: a Debian without its installation, and runtimes as wheels."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from squeeze.errors import MissingExtra, SqueezeError, first_line
from squeeze.progress import Progress
from squeeze.runtimes.base import Runtime
from squeeze.targets.arm64.root import PYTHON, Arm64Root

SUITE, PYTHON_VERSION = "bookworm", "3.11"  # of Debian, and the Python in it
DEBIAN_PACKAGES = "python3,libstdc++6,libgomp1"
PLATFORMS = ("manylinux2014", *(f"manylinux_2_{minor}" for minor in range(17, 37)))  # glibc that the suite can run
FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
ARM64 = {
    "platform_machine": "aarch64",
    "platform_system": "Linux",
    "sys_platform": "linux",
    "python_version": PYTHON_VERSION,
}
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
        SqueezeError: it or pip failed, with the last line that it printed; or a runtime does not run on Linux, or is
            not installed here, so that nobody knows which version is wanted.
    """
    for runtime in runtimes:
        runtime.require_runs("arm64-root")
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
    """The runtime's wheels for that processor, and what they need there; nothing of them runs here.

    pip asks its own processor what a package needs, so it is told one round of packages after the other.
    """
    options = ["--quiet", "--no-compile", "--no-deps", "--prefer-binary", "--python-version", PYTHON_VERSION]
    options += [word for name in PLATFORMS for word in ("--platform", f"{name}_aarch64")]
    names = [name for name in runtime.requirements(Path("model")) if name != runtime.distribution]
    wanted = [Requirement(f"{runtime.distribution}=={runtime.version()}"), *map(Requirement, names)]
    known: set[tuple[str, str]] = set()
    while wanted:
        for one in wanted:
            _install_one(folder, f"{one.name}{one.specifier}", options)
        known |= {pair for one in wanted for pair in _with_extras(one)}
        wanted = [one for one in needed(folder, known) if not known >= _with_extras(one)]
    if (built_here := next(folder.rglob("*x86_64*.so"), None)) is not None:
        raise SqueezeError(f"pip built {built_here.name} for this processor: there is no wheel of it for ARM64")


def _install_one(folder: Path, package: str, options: Sequence[str]) -> None:
    """Beside the others: into a folder that two packages share, pip itself adds nothing."""
    with TemporaryDirectory(dir=folder.parent) as alone:
        _run([sys.executable, "-m", "pip", "install", *options, "--target", alone, package], "pip")
        shutil.copytree(alone, folder, copy_function=shutil.move, dirs_exist_ok=True)


def needed(folder: Path, known: set[tuple[str, str]]) -> list[Requirement]:
    """What the packages in a folder need on that processor.

    Args:
        known: Names of packages, each with an extra that was asked of it, or with none (``""``).
    """
    found = {}
    for package in distributions(path=[str(folder)]):
        name = canonicalize_name(package.metadata["Name"])
        extras = [extra for one, extra in known if one == name]
        for requirement in map(Requirement, package.requires or ()):
            marker = requirement.marker
            if marker is None or any(marker.evaluate(ARM64 | {"extra": extra}) for extra in extras):
                found[canonicalize_name(requirement.name), tuple(sorted(requirement.extras))] = requirement
    return list(found.values())


def _with_extras(requirement: Requirement) -> set[tuple[str, str]]:
    """The package, and each of its extras that is asked for."""
    return {(canonicalize_name(requirement.name), extra) for extra in ("", *requirement.extras)}


def _run(command: Sequence[str], name: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "rror" in line or line.startswith("E:")]
        last = (lines or done.stderr.splitlines() or ["it said nothing"])[-1]
        raise SqueezeError(f"{name} failed: {first_line(ValueError(last))}")
