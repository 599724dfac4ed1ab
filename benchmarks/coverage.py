"""Do the ledger's intervals and verdicts keep what they promise? Simulated with the ledger's own functions.

    python benchmarks/coverage.py [--runs 2000] [--tables 100000] [--jobs 2]

Prints coverage of 95 % intervals (of yes/no also exactly, beside what any bound on the test could give), false verdicts
per test and per ledger, contradictions between intervals and verdicts in random tables, and false "kept" of a budget.
`tests/test_promises.py` is the short version.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from scipy.stats import multinomial

from squeeze.algorithms.proportions import tango_statistic
from squeeze.budget import parse_bound
from squeeze.comparison import Delta, delta_of
from squeeze.evaluate.metrics import Loss, Top1
from squeeze.evaluate.perplexity import Perplexity
from squeeze.ledger import Ledger, Row, Score

Draw = Callable[[np.random.Generator, int], np.ndarray]
LOSS, TOP1, PERPLEXITY = Loss(), Top1(), Perplexity()
UNITS = (10, 15, 20, 30, 60, 200)
PARTS = 10  # windows of one document
MOVED = ((0.02, 0.02), (0.05, 0.02), (0.1, 0.1))  # shares of yes that are lost and gained


def normal(generator: np.random.Generator, units: int) -> np.ndarray:
    """Mean 0."""
    return generator.normal(size=units)


def lognormal(sigma: float, generator: np.random.Generator, units: int) -> np.ndarray:
    """Mean 0, a long tail to the right."""
    return generator.lognormal(0, sigma, units) - np.exp(sigma**2 / 2)


def mirrored(draw: Draw, generator: np.random.Generator, units: int) -> np.ndarray:
    """The tail to the left."""
    return -draw(generator, units)


DRAWS: dict[str, Draw] = {
    "normal": normal,
    "lognormal .5": partial(lognormal, 0.5),
    "lognormal 1": partial(lognormal, 1.0),
}


def mean_coverage(draw: Draw, units: int, runs: int, seed: int = 0) -> float:
    """How often the 95 % interval of a paired difference of means holds the true one, 0."""
    generator = np.random.default_rng(seed)
    hits = 0
    for _ in range(runs):
        old = 100 + generator.normal(size=units)
        hits += covers(delta_of(LOSS, old + draw(generator, units), old, None, same=False), 0.0)
    return hits / runs


def document_coverage(correlation: float, documents: int, runs: int, seed: int = 0) -> float:
    """The same where windows of one document resemble each other (intraclass correlation)."""
    generator = np.random.default_rng(seed)
    units = np.repeat(np.arange(documents), PARTS)
    hits = 0
    for _ in range(runs):
        own = np.sqrt(1 - correlation) * generator.normal(size=documents * PARTS)
        moved = own + np.sqrt(correlation) * generator.normal(size=documents)[units]
        hits += covers(delta_of(LOSS, 100 + moved, np.full(len(units), 100.0), units, same=False), 0.0)
    return hits / runs


def yes_no_coverage(lost: float, gained: float, examples: int, runs: int, seed: int = 0) -> float:
    """How often the interval of a paired difference of shares holds the true one."""
    generator = np.random.default_rng(seed)
    tables = ((*_answers(generator, lost, gained, examples), None) for _ in range(runs))
    return sum(covers(delta_of(TOP1, *table, same=False), gained - lost) for table in tables) / runs


def exact_yes_no(lost: float, gained: float, examples: int) -> tuple[float, bool]:
    """Coverage of Tango's 95 % interval, all tables summed, and whether some bound on its test gives 93 to 97 %.

    Few tables are likely where few examples differ, so coverage moves in jumps: from below 93 to above 97 %.
    """
    counts = [(up, down) for up in range(examples + 1) for down in range(examples + 1 - up)]
    tables = np.array([(up, down, examples - up - down) for up, down in counts])
    chance = multinomial.pmf(tables, examples, [gained, lost, 1 - gained - lost])
    likely = [(*pair, part) for pair, part in zip(counts, chance, strict=True) if part > 1e-9]
    off = np.array([abs(tango_statistic(up, down, examples, gained - lost)) for up, down, _ in likely])
    parts = np.array([part for *_, part in likely])[np.argsort(off)]
    reached = parts.cumsum()[np.diff(np.sort(off).round(9), append=np.inf) > 0]
    return float(parts[np.sort(off) <= 1.959964].sum()), bool(((reached >= 0.93) & (reached <= 0.97)).any())


def clustered_yes_no_coverage(correlation: float, documents: int, runs: int, seed: int = 0) -> float:
    """The same, with questions in documents that resemble each other: 10 % are lost, 10 % gained."""
    generator = np.random.default_rng(seed)
    units = np.repeat(np.arange(documents), PARTS)
    hits = 0
    for _ in range(runs):
        own = generator.random(len(units))
        shared = generator.random(documents)[units]
        luck = np.where(generator.random(len(units)) < np.sqrt(correlation), shared, own)
        old, new = luck >= 0.1, (luck < 0.1) | (luck >= 0.2)
        hits += covers(delta_of(TOP1, new, old, units, same=False), 0.0)
    return hits / runs


def covers(delta: Delta, truth: float) -> bool:
    """Whether the interval of the difference holds the truth."""
    return delta.difference_interval is not None and not delta.difference_interval.excludes(truth)


def _answers(
    generator: np.random.Generator, lost: float, gained: float, examples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong of the new and of the old model; 20 % are wrong in both."""
    luck = generator.random(examples)
    both_wrong = luck > 0.8
    return (luck >= lost) & ~both_wrong | (luck > 1 - gained), (luck < 0.8)


def false_verdicts(rows: int, examples: int, ledgers: int, seed: int = 0) -> tuple[float, float]:
    """Shares of verdicts, each standing alone, and of whole ledgers that say better or worse though nothing is.

    A ledger has top-1 and loss; top-1 is primary.
    """
    generator = np.random.default_rng(seed)
    alone = together = 0
    for _ in range(ledgers):
        tables = [_nothing_true(generator, examples) for _ in range(rows)]
        alone += sum(_is_told(delta) for scores in tables for delta in scores.values())
        rows_ = [Row("pass", None, "onnx", "k", {}, {m: _score(m, d) for m, d in scores.items()}) for scores in tables]
        settled = Ledger(None, rows_).settled(("top1",))
        together += any(_is_told(row.delta(m)) for row in settled.rows for m in row.scores)
    return alone / (ledgers * rows * 2), together / ledgers


def _nothing_true(generator: np.random.Generator, examples: int) -> dict[str, Delta]:
    new, old = _answers(generator, 0.05, 0.05, examples)
    before = generator.lognormal(0, 1, examples)
    after = before + 0.1 * generator.normal(size=examples)
    return {
        "top1": delta_of(TOP1, new, old, None, same=False),
        "loss": delta_of(LOSS, after, before, None, same=False),
    }


def _score(metric: str, delta: Delta) -> Score:
    return Score(metric, "share", 0.0, None, delta)


def _is_told(delta: Delta | None) -> bool:
    return delta is not None and delta.verdict in ("better", "worse")


def random_tables(count: int, seed: int = 0) -> Iterator[Delta]:
    """Deltas of paired yes/no with any counts of both, gained, lost and neither, 10 to 300 examples."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        examples = int(generator.integers(10, 301))
        counts = generator.multinomial(examples, generator.dirichlet([2.0, 0.3, 0.3, 1.0]))
        new = np.repeat([True, True, False, False], counts)
        yield delta_of(TOP1, new, np.repeat([True, False, True, False], counts), None, same=False)


def contradictions(deltas: Iterator[Delta]) -> int:
    """How many say one thing by their verdict and another by an interval or by the measured value."""
    return sum(_contradicts(delta) for delta in deltas)


def _contradicts(delta: Delta) -> bool:
    interval, ratio = delta.difference_interval, delta.ratio_interval
    assert interval is not None
    assert delta.difference is not None
    sign = {"better": 1, "worse": -1}.get(delta.verdict, 0)
    sides = [_side(interval, 0.0)] + ([_side(ratio, 1.0)] if ratio else [])
    return any(side != sign for side in sides) or sign * delta.difference < 0 or interval.excludes(delta.difference)


def _side(interval: Any, neutral: float) -> int:
    return 1 if interval.low > neutral else -1 if interval.high < neutral else 0


def false_kept_shares(bound: str, lost: float, gained: float, examples: int, runs: int, seed: int = 0) -> float:
    """How often a budget of top-1 is kept though the truth lies outside it, or just on its edge."""
    generator = np.random.default_rng(seed)
    line, count = parse_bound(TOP1, bound), 0
    for _ in range(runs):
        delta = delta_of(TOP1, *_answers(generator, lost, gained, examples), None, same=False)
        count += line.judge(_row("top1", delta)).outcome == "kept"
    return count / runs


def false_kept_means(metric: Loss | Perplexity, bound: str, draw: Draw, units: int, runs: int, seed: int = 0) -> float:
    """The same of a budget of +2 % on losses of 1, whose true mean rises by just these 2 %.

    The long tail lies above, where a sample most often misses it.
    """
    generator = np.random.default_rng(seed)
    line, count = parse_bound(metric, bound), 0
    rise = np.log(1.02) if metric.logarithmic else 0.02
    for _ in range(runs):
        old = np.ones(units)
        delta = delta_of(metric, old + rise + 0.1 * draw(generator, units), old, None, same=False)
        count += line.judge(_row(metric.label, delta)).outcome == "kept"
    return count / runs


def _row(metric: str, delta: Delta) -> Row:
    return Row("pass", None, "onnx", "k", {}, {metric: Score(metric, "share", 0.0, None, delta)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000, help="simulated data sets per figure")
    parser.add_argument("--tables", type=int, default=100_000, help="random tables searched for contradictions")
    parser.add_argument("--jobs", type=int, default=2, help="processes; the figures do not depend on how many")
    options = parser.parse_args()
    if min(options.runs, options.tables, options.jobs) < 1:
        parser.error("--runs, --tables and --jobs count something: 1 or more")
    with ProcessPoolExecutor(options.jobs) as pool:
        show_coverage(pool, options.runs)
        show_exact()
        show_verdicts(pool, options.runs // 4)
        result = contradictions(random_tables(options.tables))
        print(f"\ncontradictions in {options.tables:,} random tables: {result}", flush=True)
        show_kept(pool, options.runs)


def show_coverage(pool: Executor, runs: int) -> None:
    print(f"coverage of 95 % intervals, {runs} data sets each; goal 93 to 97 %\n{'units':<34}", end="")
    print("".join(f"{units:>7}" for units in UNITS))
    rows: list[tuple[str, Callable[[int, int], float]]] = [
        *((f"mean, {name}", partial(mean_coverage, draw)) for name, draw in DRAWS.items()),
        *((f"mean, documents of {PARTS}, ICC {icc}", partial(document_coverage, icc)) for icc in (0.0, 0.2, 0.3)),
        *(
            (f"yes/no, documents of {PARTS}, ICC {icc}", partial(clustered_yes_no_coverage, icc))
            for icc in (0.0, 0.2, 0.3)
        ),
        *((f"yes/no, lost {lost}, gained {gained}", partial(yes_no_coverage, lost, gained)) for lost, gained in MOVED),
    ]
    futures = [[pool.submit(figure, units, runs) for units in UNITS] for _, figure in rows]
    for (name, _), result in zip(rows, futures, strict=True):
        print(f"{name:<34}" + "".join(f"{figure.result():>7.3f}" for figure in result), flush=True)


def show_exact() -> None:
    print("\nyes/no, all tables summed; *: no bound on the test gives 93 to 97 %, so few tables are likely")
    for lost, gained in MOVED:
        cells = [exact_yes_no(lost, gained, units) for units in UNITS]
        text = "".join(f"{cover:>6.3f}{' ' if reachable else '*'}" for cover, reachable in cells)
        print(f"{f'lost {lost}, gained {gained}':<34}{text}", flush=True)


def show_verdicts(pool: Executor, ledgers: int) -> None:
    print(f"\nfalse verdicts, {ledgers} ledgers of 10 rows x 2 metrics in which nothing is true; goal at most 5 %")
    futures = {examples: pool.submit(false_verdicts, 10, examples, ledgers) for examples in (20, 100, 500)}
    for examples, result in futures.items():
        alone, together = result.result()
        print(f"{examples:>5} examples: {alone:.3f} of single verdicts, {together:.3f} of ledgers", flush=True)


def show_kept(pool: Executor, runs: int) -> None:
    print(f'\nfalse "kept", {runs} runs each; goal at most 2.5 %')
    for examples in (10, 20, 50, 200, 1000):
        one = false_kept_shares("-1 points", 0.03, 0.01, examples, runs)
        edge = false_kept_shares("-10 points", 0.1, 0.0, examples, runs)
        print(f"{examples:>5} examples: top1 '-1 points', true -2: {one:.4f}; '-10 points', true -10: {edge:.4f}")
    tails = {"normal": normal, "tail below": partial(mirrored, DRAWS["lognormal 1"]), "above": DRAWS["lognormal 1"]}
    kinds = list(product((LOSS, PERPLEXITY), tails.items()))
    futures = [
        [pool.submit(false_kept_means, metric, "+2 %", draw, units, runs) for metric, (_, draw) in kinds]
        for units in UNITS
    ]
    for units, result in zip(UNITS, futures, strict=True):
        figures = zip(kinds, result, strict=True)
        text = [f"{metric.name} '+2 %', true +2 %, {tail}: {one.result():.4f}" for (metric, (tail, _)), one in figures]
        print(f"{units:>5} units: " + "; ".join(text), flush=True)


if __name__ == "__main__":
    main()
