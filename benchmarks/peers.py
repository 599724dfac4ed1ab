"""Environments of the quantizers that ``gptq_perplexity.py`` compares with: one per peer, versions pinned.

    python benchmarks/peers.py --make FOLDER [--only llm-compressor auto-round ...]
    python benchmarks/gptq_perplexity.py --peers FOLDER

Each peer wants versions of transformers of its own, so each gets a virtual environment ``FOLDER/<peer>``, about 2 GB
with the CPU build of torch. Where that build lies is pip's own business (``find-links``, ``extra-index-url``); of PyPI
alone pip takes the larger build for GPUs, which works too. An environment that is there already is brought to the
pinned versions. Ends with exit code 1 where one could not be made, and says why.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from _inputs import Arguments, run

TORCH = "torch==2.13.*"  # as for Squeeze itself: the same products for all
OURS = ("lazy-loader", "safetensors")  # what our own script in there imports
REQUIREMENTS = {
    "llm-compressor": ("llmcompressor==0.14.0.1",),
    "gptqmodel": ("gptqmodel==7.6.0",),
    "neural-compressor": ("neural-compressor[pt]==3.10", "transformers==5.17.0", "accelerate==1.15.0"),
    "auto-round": ("auto-round==0.16.1",),
}
MODULES = {
    "llm-compressor": "llmcompressor",
    "gptqmodel": "gptqmodel",
    "neural-compressor": "neural_compressor.torch",
    "auto-round": "auto_round",
}


def main() -> None:
    parser = Arguments(description=__doc__.splitlines()[0])
    parser.add_argument("--make", type=Path, metavar="FOLDER", help="where the environments go")
    parser.add_argument("--only", nargs="+", choices=list(REQUIREMENTS), default=list(REQUIREMENTS))
    options = parser.parse_args()
    if options.make is None:
        for peer, requirements in REQUIREMENTS.items():
            print(f"{peer:<19}{', '.join((*requirements, TORCH))}")
        return
    try:
        options.make.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--make: {options.make} cannot be made a folder ({error.strerror})")
    failed = [peer for peer in options.only if not make(options.make.resolve(), peer)]
    if failed:
        sys.exit(f"not made: {', '.join(failed)}")


def python_of(folder: Path, peer: str) -> Path:
    """The Python of a peer's environment."""
    return folder / peer / "bin" / "python"


def make(folder: Path, peer: str) -> bool:
    """One environment, with a line about what it holds or why it could not be made."""
    python = python_of(folder, peer)
    if not python.exists():
        venv.create(python.parent.parent, with_pip=True)
    install = [str(python), "-m", "pip", "install", "--quiet", TORCH, *REQUIREMENTS[peer], *OURS]
    versions = "print('torch', torch.__version__, 'transformers', transformers.__version__)"
    look = f"import {MODULES[peer]}, torch, transformers; {versions}"
    for command in (install, [str(python), "-c", look]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{peer:<19}failed: {(done.stderr.strip().splitlines() or ['no word why'])[-1]}", flush=True)
            return False
    print(f"{peer:<19}{REQUIREMENTS[peer][0]}, {done.stdout.strip().splitlines()[-1]}", flush=True)
    return True


if __name__ == "__main__":
    run(main)
