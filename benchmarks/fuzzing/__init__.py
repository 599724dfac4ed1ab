"""What ``benchmarks/fuzz.py`` tries: good inputs, how they are made bad, and the calls that must judge them."""

import sys
from pathlib import Path

TESTS = Path(__file__).parent.parent.parent / "tests"
if str(TESTS) not in sys.path:
    sys.path.append(str(TESTS))  # its tiny models and reports are the good inputs
