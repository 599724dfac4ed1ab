"""A folder that holds an ARM64 Linux, in which an emulator runs programs of phones and small boards on this machine.

qemu's user mode translates the instructions of one program; the kernel stays this machine's. It looks files up in the
folder first (``-L``), so neither rights nor mounts are needed. The emulated processor is a Cortex-A76, that of a
Raspberry Pi 5: NEON and int8 dot products, no SVE. Numbers come out as on the processor; times mean nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from squeeze.errors import MissingExtra, UsageError
from squeeze.runtimes.base import Runtime

EMULATOR = "qemu-aarch64-static"
PROCESSOR = "cortex-a76"
PYTHON = "usr/bin/python3"
PACKAGES = "opt"  # a folder for each runtime and version in it


@dataclass(frozen=True)
class Arm64Root:
    """The folder.

    Args:
        folder: Made by ``squeeze arm64-root``.
    """

    folder: Path

    def packages(self, runtime: type[Runtime]) -> Path:
        """Where a runtime lies, in the version that is installed here: two processors are compared, not two versions.

        Raises:
            ModelError: it is not installed here.
        """
        runtime.require_installed("--arm64")
        return self.folder / PACKAGES / f"{runtime.distribution}-{runtime.version()}"

    def require(self, runtime: type[Runtime]) -> None:
        """Raise ``MissingExtra`` where emulator, Linux or runtime are absent, and say how to come by them.

        Raises:
            UsageError: the runtime runs on other systems than the one that is emulated.
        """
        if reason := runtime.cannot_run():
            raise UsageError(f"--arm64 runs the package on an emulated Linux, and {reason}; leave --arm64 out")
        emulator()
        make = f"squeeze arm64-root {self.folder} --runtime {runtime.name}"
        if not (self.folder / PYTHON).exists():
            raise MissingExtra(f"{self.folder}: no ARM64 Linux here; '{make}' makes one")
        if not self.packages(runtime).is_dir():
            this = f"{runtime.name} {runtime.version()}"
            raise MissingExtra(f"{self.folder}: {this} for ARM64 is not in it; '{make}' adds it")

    def command(self, runtime: type[Runtime], script: Path, arguments: Sequence[str]) -> list[str]:
        """The words that run a Python script in the folder; absolute paths of this machine are seen too."""
        root = self.folder.resolve()
        variables = {"PYTHONHOME": f"{root}/usr", "PYTHONPATH": str(self.packages(runtime).resolve())}
        settings = [word for name, value in variables.items() for word in ("-E", f"{name}={value}")]
        emulated = [emulator(), "-cpu", PROCESSOR, "-L", str(root), "-U", "LD_LIBRARY_PATH", *settings]
        return [*emulated, str(root / PYTHON), "-s", "-B", str(script), *arguments]


def emulator() -> str:
    """The emulator's path; raises ``MissingExtra`` where it is not installed."""
    place = shutil.which(EMULATOR)
    if place is None:
        raise MissingExtra(f"--arm64 needs {EMULATOR}; 'apt install qemu-user-static' (or your system's like) gives it")
    return place
