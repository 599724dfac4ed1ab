"""Whether a command tries to speak to anybody, seen without a tracer.

ONNX Runtime's telemetry writes what it would send into a file under ``HOME`` as soon as it is imported, and sends it a
minute later: the file is there at once, and in confined processes too. The kernel counts, in a network that leads
nowhere, each packet that a command would have sent, by whatever library.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Under a CI server's variables the runtime is silent by itself.
SILENCING = {
    "ORT_DISABLE_TELEMETRY",
    "CI",
    "TF_BUILD",
    "GITHUB_ACTIONS",
    "GITLAB_CI",
    "CIRCLECI",
    "TRAVIS",
    "JENKINS_URL",
}
SILENCING |= {"CODEBUILD_BUILD_ID", "BUILDKITE", "TEAMCITY_VERSION", "APPVEYOR", "BITBUCKET_BUILD_NUMBER"}
COUNTED = {"OutNoRoutes", "OutDatagrams", "ActiveOpens", "Ip6OutNoRoutes", "Udp6OutDatagrams"}
NOWHERE = """
import ctypes, subprocess, sys
unshare = ctypes.CDLL(None).unshare
known = unshare(0x40000000) == 0 or unshare(0x50000000) == 0
code = subprocess.call(sys.argv[2:])
lines = [line.split() for line in open("/proc/net/snmp")]
pairs = [pair for names, values in zip(lines[::2], lines[1::2]) for pair in zip(names[1:], values[1:])]
pairs += [line.split() for line in open("/proc/net/snmp6")]
counted = sys.argv[1].split(",")
print(sum(int(value) for name, value in pairs if name in counted) if known else "unknown", file=sys.stderr)
sys.exit(code)
"""


@dataclass(frozen=True)
class Heard:
    """What a command would have said.

    Args:
        packets: None where this kernel lends no network of its own.
        queue: Files under its ``HOME`` in which telemetry waits.
    """

    packets: int | None
    queue: list[str]


def heard(command: Sequence[str | Path], home: Path) -> Heard:
    """Run a command in a network that leads nowhere, with a ``HOME`` of its own and nothing that silences telemetry."""
    home.mkdir()
    own = {name: value for name, value in os.environ.items() if name not in SILENCING}
    own |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "PYTHONPATH": os.pathsep.join(sys.path)}
    watched = [sys.executable, "-c", NOWHERE, ",".join(COUNTED), *map(str, command)]
    done = subprocess.run(watched, env=own, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr
    packets = done.stderr.strip().splitlines()[-1]
    paths = [str(path.relative_to(home)) for path in home.rglob("*") if "microsoft" in str(path).lower()]
    return Heard(None if packets == "unknown" else int(packets), paths)
