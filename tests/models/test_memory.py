"""Large tensors have pages of their own: freed, they are gone from the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import re, torch
from pathlib import Path
from squeeze.models.language.memory import keep_large_apart

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024

keep_large_apart()
torch.ones(10 * 2**20)  # 40 MB, freed: from here on glibc would keep blocks of less for itself
before = resident()
held = [(torch.ones(2 * 2**20), torch.ones(1000)) for _ in range(50)]  # 8 MB each, small ones between
held = [small for _, small in held]
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_what_is_freed_between_what_stays_goes_back_to_the_system():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100  # MB, of 400
