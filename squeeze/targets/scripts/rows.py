"""Run the packaged model beside this file; README.md says what to install (and Pillow for pictures).

    python run.py --golden          run the golden input, compare with the golden output
    python run.py input.npy         an array that is the model's input, with or without the batch dimension
    python run.py picture.jpg       a picture, prepared as manifest.json says
    python run.py sentences.txt     a sentence in each line, for a model that reads some (and tokenizers)
    python run.py arrays.npz --outputs answers.npz   inputs by their names; all outputs as they are
    python run.py --bench           how fast it is on this machine

It checks the model's answer, not the files; `squeeze verify` checks both.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from squeeze.targets.scripts.pictures import read_arrays, read_input
from squeeze.targets.scripts.sentences import read_sentences
from squeeze.targets.scripts.shared import (
    HERE,
    Fault,
    Json,
    Package,
    exit_code,
    golden_line,
    one_line,
    peak_rss_bytes,
    plain,
)

WARM_UP_RUNS, LEAST_RUNS = 3, 10
WARM_UP_S = 0.1
AT_ONCE = 16  # examples whose outputs are worked out together


def main(runtime: Callable[[Path, int], Any], answers: Any, arguments: list[str] | None = None) -> int:
    """Read arguments, run, print; 0 done, 1 cannot, 2 wrong arguments, 4 the golden output differs."""
    options = parsed(arguments)
    folder = options.folder
    return exit_code(lambda: answered(Package(folder, runtime, options.threads), answers, options), folder)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", nargs="?", help="an .npy or .npz file of arrays, a picture or sentences")
    parser.add_argument("--golden", action="store_true", help="run the golden input and compare")
    parser.add_argument("--outputs", type=Path, help="with an input: write all outputs into this .npz file")
    parser.add_argument("--bench", action="store_true", help="measure the time of a batch")
    parser.add_argument("--batch", type=int, action="append", help="with --bench: examples at once (1); repeatable")
    parser.add_argument("--seconds", type=float, default=1.0, help="with --bench: how long for each (1)")
    parser.add_argument("--top", type=int, default=5, help="how many classes to show (5)")
    parser.add_argument("--threads", type=int, default=1, help="processor threads (1)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--folder", type=Path, default=HERE, help="the unpacked package (where this file lies)")
    options = parser.parse_args(arguments)
    if sum([bool(options.input), options.golden, options.bench]) != 1:
        parser.error("give an input file, --golden or --bench")
    if options.outputs and not options.input:
        parser.error("--outputs goes with an input file")
    if min(options.batch or [1]) < 1 or options.threads < 1:
        parser.error("--batch and --threads start at 1")
    return options


def answered(package: Package, answers: Any, options: argparse.Namespace) -> int:
    """Run what was asked for and print it."""
    if options.golden:
        result = package.compared(named_outputs(package, package.golden("input")))
        lines = [golden_line(result)]
    elif options.bench:
        result = bench(package, options)
        lines = [f"{row['batch']} at once: {row['median_ms']:.3f} ms" for row in result["batches"]]
    elif options.outputs:
        result = {"examples": write_outputs(package, inputs_of(package, Path(options.input)), options)}
        lines = [f"outputs of {result['examples']} examples: {options.outputs}"]
    else:
        result = {"examples": answers.answer(rows_of(package, options), options, package.manifest)}
        lines = []
        for number, example in enumerate(result["examples"]):
            lines += [f"example {number}"] if len(result["examples"]) > 1 else []
            lines += answers.lines(example)
    result = {**result, "load_ms": package.load_ms}
    result.setdefault("peak_rss_bytes", peak_rss_bytes())
    print(json.dumps(result) if options.json else "\n".join(map(plain, lines)))
    return 0 if result.get("agrees", True) else 4


def named_outputs(package: Package, inputs: Json) -> Json:
    """Every output by its name."""
    names = [output["name"] for output in package.manifest["outputs"]]
    return dict(zip(names, package.runtime.run(inputs), strict=True))


def rows_of(package: Package, options: argparse.Namespace) -> Any:
    """The first output for the input file, float64 ``[n, width]``."""
    import numpy as np

    inputs = inputs_of(package, Path(options.input))
    outputs = outputs_for(package, inputs, options.input)
    return np.asarray(outputs[0], np.float64).reshape(len(next(iter(inputs.values()))), -1)


def outputs_for(package: Package, feed: Json, what: str) -> Any:
    """All outputs of one call, in their order."""
    try:
        return package.runtime.run(feed)
    except Exception as error:  # the runtimes' exception classes share no base
        raise Fault(f"{what}: the model refuses it ({one_line(error)})") from error


def write_outputs(package: Package, inputs: Json, options: argparse.Namespace) -> int:
    """Every output of every example into one file, by its name; gives the number of examples.

    Examples go in parts of one size; the last part is filled up with the first ones again.
    """
    import numpy as np

    count = len(next(iter(inputs.values())))
    if count == 0:
        raise Fault(f"{options.input}: holds no example")
    fixed = package.manifest["inputs"][0]["shape"][0]
    size = fixed if isinstance(fixed, int) else min(count, AT_ONCE)
    order = np.arange(-(-count // size) * size).reshape(-1, size) % count
    parts = [outputs_for(package, {n: a[rows] for n, a in inputs.items()}, options.input) for rows in order]
    names = [output["name"] for output in package.manifest["outputs"]]
    columns = [np.concatenate(column)[:count] for column in zip(*parts, strict=True)]
    with options.outputs.open("wb") as stream:
        np.savez(stream, **dict(zip(names, columns, strict=True)))
    return count


def inputs_of(package: Package, path: Path) -> Json:
    """What the model is fed, by the names of its inputs."""
    steps, specs = package.manifest["preprocessing"], package.manifest["inputs"]
    if path.suffix == ".npz":
        return read_arrays(path, specs)
    if "tokenizer" in steps:
        arrays = read_sentences(path, package.folder, steps)
        return {spec["name"]: arrays[spec["name"]] for spec in specs}
    return {specs[0]["name"]: read_input(path, specs[0], steps)}


def bench(package: Package, options: argparse.Namespace) -> Json:
    """Milliseconds of each batch size, made of the golden input; peak memory before any of them."""
    inputs = package.golden("input")
    if any(array.ndim == 0 or len(array) == 0 for array in inputs.values()):
        raise Fault("the golden input holds no example; make the package again")
    package.runtime.run(inputs)
    peak = peak_rss_bytes()
    fixed = [size for size in package.manifest["inputs"][0]["shape"][:1] if isinstance(size, int)]
    batches = [timed_batch(package, inputs, size, options.seconds) for size in fixed or options.batch or [1]]
    return {"batches": batches, "peak_rss_bytes": peak}


def timed_batch(package: Package, inputs: Json, size: int, seconds: float) -> Json:
    """Median and spread of a batch of exactly ``size`` examples, repeated from the inputs as often as needed."""
    import numpy as np

    feed = {name: array[np.arange(size) % len(array)] for name, array in inputs.items()}
    outputs_for(package, feed, f"batch of {size}")
    timed(package, feed, WARM_UP_S, WARM_UP_RUNS)
    times = timed(package, feed, seconds, LEAST_RUNS)
    low, median, high = (float(1000 * value) for value in np.percentile(times, (10, 50, 90)))
    speed = {"median_ms": median, "p10_ms": low, "p90_ms": high, "examples_per_s": 1000 * size / median}
    return {"batch": size, "runs": len(times), **speed}


def timed(package: Package, feed: Json, seconds: float, least: int) -> list[float]:
    """Seconds of each run."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        package.runtime.run(feed)
        times.append(time.perf_counter() - start)
    return times
