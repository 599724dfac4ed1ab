"""Run the benchmarks one after the other, each in a process of its own.

    python -m benchmarks [--real FOLDER] [--only NAME ...]

Their figures are only worth something on a machine that does nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NEEDS_REAL = {
    "cached_teacher",
    "chosen_data",
    "clock_noise",
    "decode_goal",
    "gptq_perplexity",
    "int8_vs_onnxruntime",
    "overlap",
    "phone_files",
    "predicted",
    "pruning_language",
    "pruning_vs_torch_pruning",
    "reference",
    "separable",
    "sparsity",
    "synthetic_text",
}


def main() -> None:
    scripts = sorted(path.stem for path in HERE.glob("[a-z]*.py"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run the benchmarks.")
    parser.add_argument(
        "--real", type=Path, default=HERE.parent.parent / "shared" / "real", help="real models and data"
    )
    parser.add_argument("--only", nargs="+", choices=scripts, default=scripts)
    options = parser.parse_args()
    failed = [name for name in options.only if run(name, options.real.resolve()) != 0]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def run(name: str, real: Path) -> int:
    if name in NEEDS_REAL and not real.is_dir():
        print(f"\n== {name}: skipped, {real} is absent; --real names the folder of real models and data", flush=True)
        return 0
    print(f"\n== {name}", flush=True)
    arguments = ["--real", str(real)] if name in NEEDS_REAL else []
    return subprocess.run([sys.executable, str(HERE / f"{name}.py"), *arguments], check=False).returncode


if __name__ == "__main__":
    main()
