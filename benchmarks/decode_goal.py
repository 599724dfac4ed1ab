"""Whether a decoder that was pruned to a share of the time for one token then takes that share of it.

    python benchmarks/decode_goal.py [--model FOLDER|FILE.gguf] [--real FOLDER] [--goal 85 70] [--pass width depth]
        [--rounds 9] [--new 32] [--wall]

For each goal ``prune_width decode: "70 %"`` (or ``prune_depth``) measures this host and chooses; the result is put
into 4 bits, table and head into 8, exported, and writes tokens behind a prompt of 256 in ONNX Runtime, one thread, in
turns with the package of the whole model. Printed: what stays, the share of the time that the measured table gives it,
and the share that its package takes: the ratio of medians of processor time (``--wall``: of the clock), with its 95 %
interval. Widths do not depend on weights, so nothing is made up for. The model is prose6M where none is named.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _inputs import Arguments, model_path, open_model, positive, run
from decode import Start, ort, timed

from squeeze.algorithms.stats import Interval, ratio_of_medians
from squeeze.data.text import TokenDataset
from squeeze.errors import ModelError
from squeeze.measure.decode import DecodeTable, token_cost
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.prune.prune_depth import PruneDepth
from squeeze.passes.prune.prune_width import PruneWidth
from squeeze.passes.quantize.rtn import Rtn
from squeeze.writers.decoder.export import export_decoder

PROMPT = 256  # tokens, as the table has them
LENGTH = 64  # of calibration sequences, whose words do not matter here


def main() -> None:
    options = arguments()
    clock = time.perf_counter if options.wall else time.process_time
    with tempfile.TemporaryDirectory() as work:
        dense = open_model(options.model, Path(work))
        whole = packaged(dense, Path(work) / "whole", options)
        table = DecodeTable()
        print(f"{options.model.stem}, {'on the clock' if options.wall else 'processor time'}, 1 thread")
        print(f"{'':<30}{'stays':<24}{'by the table':>12}{'in its package':>24}", flush=True)
        for kind in options.passes:
            for goal in options.goal:
                folder = Path(work) / f"{kind}-{goal:g}"
                name = f'prune_{kind} decode: "{goal:g} %"'
                try:
                    small, stays = pruned(dense, kind, goal, table)
                except ModelError as error:
                    print(f"{name:<30}{error}", flush=True)
                    continue
                foretold = token_cost(small.skeleton, table) / token_cost(dense.skeleton, table)
                starts = {"whole": whole, "small": packaged(small, folder, options)}
                ratio, interval = compared(starts, dense.vocabulary, options, clock)
                shown = f"{ratio:.1%} [{interval.low:.1%}, {interval.high:.1%}]"
                print(f"{name:<30}{stays:<24}{foretold:>12.1%}{shown:>24}", flush=True)


def arguments() -> argparse.Namespace:
    parser = Arguments(description=__doc__.splitlines()[0])
    parser.add_real()
    parser.add_argument("--model", type=model_path, help="a Hugging Face folder, or a .gguf file")
    parser.add_argument("--goal", type=positive, nargs="+", default=[85, 70], metavar="PERCENT")
    parser.add_argument("--pass", dest="passes", nargs="+", choices=["width", "depth"], default=["width", "depth"])
    parser.add_argument("--rounds", type=positive, default=9)
    parser.add_argument("--new", type=positive, default=32, help="tokens written in a round")
    parser.add_argument("--wall", action="store_true", help="seconds on the clock, on a machine that is idle")
    options = parser.parse_args()
    options.model = options.model or model_path(str(options.real / "models" / "prose6M"))
    return options


def pruned(dense: LanguageModel, kind: str, goal: int, table: DecodeTable) -> tuple[LanguageModel, str]:
    """The pruned model, and what of it stays."""
    tokens = np.random.default_rng(0).integers(5, dense.vocabulary, (2, LENGTH))
    context = Context(calibration_data=TokenDataset("random", tokens))
    share = f"{goal} %"
    if kind == "depth":
        small = PruneDepth(decode=share, samples=1).run(dense, context)
        stays = f"{small.blocks} of {dense.blocks} blocks"
    else:
        small = PruneWidth(decode=share, compensate=False, target="given").run(dense, context)
        before, after = context.facts["widths"]["intermediate"]
        stays = f"{after:,} of {before:,} channels"
    table.seconds |= context.measured["latency_table"]
    return small, stays


def packaged(model: LanguageModel, folder: Path, options: argparse.Namespace) -> Start:
    quantized = Rtn(bits=4, group_size=32, embeddings=8).run(model, Context())
    return ort(export_decoder(quantized, folder), 1, PROMPT + options.new + 8)


def compared(
    starts: dict[str, Start], vocabulary: int, options: argparse.Namespace, clock: Callable[[], float]
) -> tuple[float, Interval]:
    """Time for a token of the second to that of the first."""
    prompt = np.random.default_rng(0).integers(5, vocabulary, PROMPT).tolist()
    seconds: dict[str, list[float]] = {name: [] for name in starts}
    for number in range(options.rounds + 1):
        for name, start in starts.items():
            _, written = timed(start, prompt, options.new, clock)
            if number:  # the first round warms up
                seconds[name].append(written)
    return ratio_of_medians(np.array(seconds["small"]), np.array(seconds["whole"]))


if __name__ == "__main__":
    run(main)
