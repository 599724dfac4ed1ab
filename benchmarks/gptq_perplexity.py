"""GPTQ's perplexity, time and memory beside its peers': one model, one calibration text, one evaluator, one run.

    python benchmarks/gptq_perplexity.py [--model FOLDER|FILE.gguf --calibrate TEXT --evaluate TEXT] [--real FOLDER]
        [--grid 4:64 --grid 3:64 ...] [--only gptq auto-round ...] [--peers FOLDER] [--iterations 20]
        [--peer-python auto-round=/other/environment/bin/python] [--peer-path llm-compressor=/folder/of/packages]

Each candidate quantizes the model (default: prose6M) in a process of its own, symmetric, at the same bits and group
size, from the very same token sequences, with the defaults of its package; ``process`` is the time from its start until
the result is saved, imports included, ``peak`` the resident memory by then (medians over ``--rounds``). Peers may live
in environments of their own (``peers.py --make FOLDER`` makes them, ``--peers FOLDER`` takes them); those that are
found nowhere are named. All are scored by our evaluator on the same sequences of text that nobody calibrated on:
perplexity, KL to the original, the paired 95 % interval of the perplexity's difference to our ``gptq``, and the share
of rounding's loss (rtn, in nats per token) that each recovers, with its interval.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _inputs import Arguments, folder, open_model, open_text, positive, run
from _perplexity_candidates import OURS, PEERS
from peers import python_of
from safetensors.torch import load_file, save_file

from squeeze.algorithms.stats import Studentized, mean_by_unit, ratio_by_unit
from squeeze.data.overlap import without_overlap
from squeeze.evaluate.tokens import Reference, TokenScores, score_tokens
from squeeze.models.language.dense import copy_side_files
from squeeze.models.language.language_model import LanguageModel
from squeeze.progress import Progress

HERE = Path(__file__).parent
GRIDS = ["4:64", "4:128", "3:64", "2:64"]
QUIET = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "GPTQMODEL_CPU_WORKERS": "2", "CI": "1"}


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    names = [name for name in (*OURS, *PEERS) if name in options.only]
    absent = [name for name in names if name in PEERS and not present(name, options)]
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(options, Path(work))
        print(bench.title())
        for bits, size in options.grid or map(bits_and_group, GRIDS):
            bench.compare(bits, size, [name for name in names if name not in absent])
    if absent:
        print(f"\nnot measured, since not installed: {', '.join(absent)}")


def arguments() -> argparse.Namespace:
    parser = Arguments(description=__doc__.splitlines()[0])
    parser.add_language_model("calibrate", "evaluate")
    parser.add_argument(
        "--grid", action="append", type=bits_and_group, metavar="BITS:GROUP", help=f"default: {', '.join(GRIDS)}"
    )
    parser.add_argument("--only", nargs="+", choices=[*OURS, *PEERS], default=[*OURS, *PEERS])
    parser.add_argument("--samples", type=positive, default=128, help="calibration sequences")
    parser.add_argument("--length", type=positive, default=256, help="tokens in each")
    parser.add_argument("--scored", type=positive, default=None, help="evaluation sequences; default: all")
    parser.add_argument("--rounds", type=positive, default=1, help="times that each is run; scores are of the first")
    parser.add_argument("--threads", type=positive, default=os.cpu_count() or 1)
    parser.add_argument("--iterations", type=positive, help="of auto-round, in each block; default: its own, 200")
    parser.add_argument("--peers", type=folder, help="what peers.py --make made")
    parser.add_argument("--peer-python", action="append", default=[], metavar="PEER=PYTHON", help="its environment")
    parser.add_argument("--peer-path", action="append", default=[], metavar="PEER=FOLDER", help="before its own path")
    options = parser.language_model()
    pythons = {name: python_of(options.peers, name) for name in PEERS} if options.peers else {}
    pythons = {name: str(python) for name, python in pythons.items() if python.is_file()}
    options.peer_python = pythons | by_peer(parser, "--peer-python", options.peer_python)
    options.peer_path = by_peer(parser, "--peer-path", options.peer_path)
    return options


def bits_and_group(text: str) -> tuple[int, int]:
    """Of ``4:64``."""
    bits, _, size = text.partition(":")
    if bits not in ("2", "3", "4", "8") or not (size.isdecimal() and int(size)):
        raise argparse.ArgumentTypeError(f"{text} is no grid; 4:64 would be 4 bits in groups of 64")
    return int(bits), int(size)


def by_peer(parser: Arguments, option: str, values: list[str]) -> dict[str, str]:
    """What is behind the ``=``, by the peer before it."""
    pairs = [value.partition("=") for value in values]
    for peer, _, place in pairs:
        if peer not in PEERS or not Path(place).exists():
            parser.error(f"{option} {peer}={place}: PEER=PLACE with a place that is there; peers: {', '.join(PEERS)}")
    return {peer: place for peer, _, place in pairs}


def present(name: str, options: argparse.Namespace) -> bool:
    """Whether a peer can be imported where it would run."""
    if name not in options.peer_python and name not in options.peer_path:
        return find_spec(PEERS[name][0]) is not None
    look = f"from importlib.util import find_spec as f; import sys; sys.exit(f({PEERS[name][0]!r}) is None)"
    return (
        subprocess.run([python(name, options), "-c", look], env=environment(name, options), check=False).returncode == 0
    )


def python(name: str, options: argparse.Namespace) -> str:
    return options.peer_python.get(name, sys.executable)


def environment(name: str, options: argparse.Namespace) -> dict[str, str]:
    paths = [str(HERE.parent), options.peer_path.get(name, ""), os.environ.get("PYTHONPATH", "")]
    return os.environ | QUIET | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


class Bench:
    """The model, its data, the original's scores."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.model = open_model(options.model, folder)
        self.evaluate = open_text(options.evaluate, self.model, options.length, options.scored)
        everything = open_text(options.evaluate, self.model, options.length, None)
        calibrate = open_text(options.calibrate, self.model, options.length, options.samples)
        self.calibrate = without_overlap(calibrate, everything)
        save_file({"tokens": torch.from_numpy(self.calibrate.tokens)}, folder / "tokens.safetensors")
        self.hidden = folder / "original"
        self.hidden.mkdir()
        self.original = score_tokens(self.model, self.evaluate, self.hidden, None, Progress(), "original")

    def title(self) -> str:
        n, tokens = len(self.calibrate), self.original.nll.size
        perplexity = float(np.exp(self.original.nll.mean()))
        calibrated = f"calibrated on {n} sequences of {self.options.length} tokens"
        if self.options.iterations:
            calibrated += f", auto-round with {self.options.iterations} iterations a block"
        return f"{self.options.model.stem}, original perplexity {perplexity:.3f} over {tokens} tokens; {calibrated}"

    def compare(self, bits: int, size: int, names: list[str]) -> None:
        results = {}
        for name in names:
            reports = [self.run(name, bits, size) for _ in range(self.options.rounds)]
            if failed := next((one["failed"] for one in reports if "failed" in one), None):
                print(f"{name} failed at {bits} bits: {failed}")
                continue
            results[name] = reports, self.score(name)
        show(bits, size, results, self.original)

    def run(self, name: str, bits: int, size: int) -> dict[str, Any]:
        """One quantization in a process of its own; what it took, or why it failed."""
        with tempfile.TemporaryDirectory(dir=self.folder) as work:
            job = {"model": str(self.model.folder), "work": work, "bits": bits, "group_size": size}
            job |= {"tokens": str(self.folder / "tokens.safetensors"), "threads": self.options.threads}
            job |= {"iterations": self.options.iterations}
            job |= {"out": str(self.weights(name)), "said": f"{work}/said.json", "spawned": time.time()}
            file = Path(work) / "job.json"
            file.write_text(json.dumps(job))
            command = [python(name, self.options), str(HERE / "_perplexity_candidates.py"), name, str(file)]
            done = subprocess.run(
                command, env=environment(name, self.options), cwd=work, check=False, capture_output=True, text=True
            )
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
                return {"failed": f"{last} (exit code {done.returncode})"}
            return json.loads(Path(job["said"]).read_text())

    def weights(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def score(self, name: str) -> TokenScores:
        """The original with the candidate's weights in place of its own."""
        target, new = self.folder / "scored", load_file(self.weights(name))
        target.mkdir(exist_ok=True)
        copy_side_files(self.model.folder, target)
        own = {full: self.model.tensor(full) for full in self.model.skeleton.names()}
        save_file(
            {full: new.get(full, value).to(value.dtype) for full, value in own.items()}, target / "model.safetensors"
        )
        reference = Reference(self.model, self.hidden)
        return score_tokens(LanguageModel(target), self.evaluate, target, reference, Progress(), name)


def show(bits: int, size: int, results: dict[str, Any], original: TokenScores) -> None:
    losses = {name: scores.nll.mean(1) for name, (_, scores) in results.items()}
    losses["original"] = original.nll.mean(1)
    print(f"\n{bits} bits, group {size}, symmetric")
    head = f"{'':<19}{'perplexity':>11}{'to our gptq':>27}{'KL':>9}{'of rtn loss recovered':>28}"
    print(f"{head}{'process':>10}{'import':>8}{'peak':>9}", flush=True)
    for name, (reports, scores) in results.items():
        print(row(name, reports, scores, losses), flush=True)


def row(name: str, reports: list[dict[str, Any]], scores: TokenScores, losses: dict[str, np.ndarray]) -> str:
    delta = back = ""
    if "gptq" in losses:
        ours = np.exp(losses["gptq"].mean())
        delta = interval(mean_by_unit(losses[name] - losses["gptq"]), lambda nats: ours * np.expm1(nats), 3)
    if "rtn" in losses and name != "rtn":
        lost, lost_by_rtn = losses[name] - losses["original"], losses["rtn"] - losses["original"]
        back = interval(ratio_by_unit(lost, lost_by_rtn), lambda share: 100 * (1 - share), 0) + " %"
    took = [statistics.median(one[key] for one in reports) for key in ("process_s", "import_s", "peak_bytes")]
    clock = f"{took[0]:>8.1f} s{took[1]:>6.1f} s{took[2] / 1e6:>6.0f} MB"
    perplexity = np.exp(losses[name].mean())
    return f"{name:<19}{perplexity:>11.3f}{delta:>27}{scores.kl.mean():>9.5f}{back:>28}{clock}"


def interval(of: Studentized, scale: Callable[[float], float], digits: int) -> str:
    low, high = sorted(scale(end) for end in of.interval() or (np.nan, np.nan))
    return f"{scale(of.value):+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


if __name__ == "__main__":
    run(main)
