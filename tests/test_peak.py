"""The peak is a program's own: a large parent does not count, and a large child does where it is asked for."""

from __future__ import annotations

import subprocess
import sys

from squeeze.peak import largest_process_bytes, peak_memory_bytes

LARGE = 1_000_000_000


def test_a_child_of_a_large_parent_tells_its_own_peak():
    memory = bytearray(LARGE)
    memory[::4096] = b"x" * len(memory[::4096])  # else the pages are only promised
    assert peak_memory_bytes() > LARGE
    code = "from squeeze.peak import peak_memory_bytes; print(peak_memory_bytes())"
    peak = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 1_000_000 < peak < LARGE / 2


def test_a_large_child_counts_as_the_largest_process():
    code = f"memory = bytearray({2 * LARGE}); memory[::4096] = b'x' * len(memory[::4096])"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert largest_process_bytes() > 2 * LARGE
