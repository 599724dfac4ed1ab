"""Numbers as people read them: every output of a report words them here, so that all say the same.

Bytes and counts in powers of 1000, as a budget writes them; shares in percent, their differences in points.
"""

from __future__ import annotations

import math

from squeeze.progress import duration as duration
from squeeze.report.shape import Delta, Report, Row, Score, ScoredOn

ABSENT, UNKNOWN, NOT_RUN = "—", "unknown", "not run"
COUNTED = ("count", "bytes")  # units of what is known or not, never left out
TIMES = "\N{MULTIPLICATION SIGN}"
UNCHANGED = "±0"
MARKS = {"better": "✓", "worse": "✗", "not told apart": "≈", "equivalent": "≡", "same": "="}
LEGEND = ", ".join(f"{mark} {verdict}" for verdict, mark in MARKS.items()) + ", no mark: no verdict"
HEADINGS = {"size_bytes": "size", "top1": "top-1", "top5": "top-5", "kl": "KL", "macs": "MACs"}
PREFIXES = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "K"))


def heading(metric: str) -> str:
    """A metric's name over a column."""
    return HEADINGS.get(metric, metric.replace("_", " "))


def size(size_bytes: float) -> str:
    """``78.4 KB``."""
    return _scaled(size_bytes, least=10**3, unit="B", bare="bytes")


def count(number: float | None) -> str:
    """``269,722`` up to a million, then ``40.6 M``."""
    return UNKNOWN if number is None else _scaled(number, least=10**6)


def whole(number: int | None) -> str:
    """``1,269,722``, every digit."""
    return UNKNOWN if number is None else f"{number:,}"


def _scaled(number: float, least: int, unit: str = "", bare: str = "") -> str:
    """Three digits, from ``least`` on with a prefix."""
    for factor, prefix in PREFIXES:
        if factor >= least and abs(number) >= factor * 0.9995:
            whole_digits = len(f"{abs(number / factor):.0f}")
            return f"{number / factor:.{max(0, 3 - whole_digits)}f} {prefix}{unit}"
    return f"{number:,.0f} {bare}".rstrip()


def share(part: float) -> str:
    """``80.75 %``."""
    return f"{100 * part:.2f} %"


def times(ratio: float) -> str:
    """``0.55x``."""
    return f"{ratio:.2f}{TIMES}"


def milliseconds(time_ms: float) -> str:
    """``0.662 ms``."""
    return f"{time_ms:,.0f} ms" if time_ms >= 1000 else f"{time_ms:.3g} ms"


def value(unit: str, number: float | None) -> str:
    """A value with its unit."""
    if number is None or not math.isfinite(number):
        return UNKNOWN if unit in COUNTED else ABSENT
    match unit:
        case "share":
            return share(number)
        case "bytes":
            return size(number)
        case "count":
            return count(number)
        case "ratio":
            return times(number)
        case "nats":
            return f"{number:.4f}" if _shows(number) else f"{number:.1e}"
        case "cosine":
            return f"{number:.4f}"
        case "perplexity":
            return f"{number:,.3f}"
    return f"{number:,.4g} {unit}".rstrip()


def interval(unit: str, ends: tuple[float, float] | None) -> str:
    """``[79.63, 81.82]``, in the unit that the value beside it names; nothing where there is none."""
    return "" if ends is None else "[" + ", ".join(_bare(unit, end) for end in ends) + "]"


def _bare(unit: str, number: float) -> str:
    return value(unit, number).removesuffix(" %").removesuffix(TIMES).removesuffix(f" {unit}")


def change(unit: str, delta: Delta) -> str:
    """How far a score moved: points for shares, a ratio for timings, percent for bytes and counts, else signed."""
    if delta.verdict == "same":
        return UNCHANGED
    if unit in ("bytes", "count") and delta.ratio is not None:
        return f"{100 * (delta.ratio - 1):+z.1f} %"
    if unit == "ratio":
        return value(unit, delta.ratio)
    if delta.difference is None:
        return ABSENT
    if unit == "share":
        return f"{100 * delta.difference:+z.2f} points"
    if unit in ("nats", "perplexity", "cosine"):
        return f"{delta.difference:+z.4f}" if _shows(delta.difference) else f"{delta.difference:+.1e}"
    return ("+" if delta.difference >= 0 else "-") + value(unit, abs(delta.difference))


def _shows(number: float) -> bool:
    """Whether four decimals say it: else a change that is sure would read ``+0.0000 worse``."""
    return number == 0 or abs(number) >= 0.00005


def change_interval(unit: str, delta: Delta) -> str:
    """The 95 % interval of :func:`change`, ``[-0.72, +0.04]``; nothing where the change is exact."""
    if unit == "ratio":
        return interval(unit, delta.ratio_interval)
    if delta.difference_interval is None or delta.verdict == "same":
        return ""
    factor, digits = (100, 2) if unit == "share" else (1, 4)
    return "[" + ", ".join(f"{factor * end:+z.{digits}f}" for end in delta.difference_interval) + "]"


def verdict(unit: str, delta: Delta | None) -> str:
    """``worse``, ``not told apart (could be -0.72 to +0.04 points)``, ``no verdict: a reason``."""
    if delta is None:
        return ""
    if delta.verdict == "no verdict":
        return f"{delta.verdict}: {delta.why}" if delta.why else delta.verdict
    ends = change_interval(unit, delta).strip("[]").replace(", ", " to ")
    if delta.verdict != "not told apart" or not ends:
        return delta.verdict
    return f"{delta.verdict} (could be {ends}{' points' if unit == 'share' else TIMES if unit == 'ratio' else ''})"


def smallest_seen(unit: str, delta: Delta | None) -> str:
    """The smallest true change that would have been found four times in five, ``1.03 points``."""
    if delta is None or delta.smallest_seen is None:
        return ""
    if unit == "share":
        return f"{100 * delta.smallest_seen:.2f} points"
    return f"{delta.smallest_seen:.4f}" if _shows(delta.smallest_seen) else f"{delta.smallest_seen:.1e}"


def change_text(unit: str, delta: Delta | None) -> str:
    """``-0.34 points [-0.72, +0.04]``; nothing for the original's own row."""
    if delta is None:
        return ""
    unpaired = "" if delta.paired else " unpaired"
    return f"{change(unit, delta)} {change_interval(unit, delta)}".rstrip() + unpaired


def marked(score: Score) -> str:
    """A value with the mark of its verdict against the original, ``80.41 % ≈``."""
    mark = MARKS.get(score.to_original.verdict, "") if score.to_original else ""
    return f"{value(score.unit, score.value)} {mark}".rstrip()


def own_data(report: Report) -> list[str]:
    """``choice:blimp: 6,800 examples of pairs:blimp (sha256 0a1b2c)``: metrics that are scored on data of their own."""
    data = {score.metric: score.scored_on for row in report.rows for score in row.scores.values() if score.scored_on}
    return [f"{heading(metric)}: {examples(on)} (sha256 {on.sha256[:12]})" for metric, on in data.items()]


def examples(on: ScoredOn) -> str:
    """``597 examples of digits``, and how many are independent where not all are."""
    words = f"{on.examples:,} examples of {on.name}" + (f", {on.tokens:,} tokens scored" if on.tokens else "")
    if on.units is None or on.units == on.examples:
        return words
    copies = f"; {on.copies:,} {'copy' if on.copies == 1 else 'copies'} counted once" if on.copies else ""
    return f"{words}, {on.units:,} independent unit{'s' * (on.units != 1)}{copies}"


def judged(report: Report) -> str:
    """Which metric is judged, over how many changes together, and how many comparisons the whole table holds."""
    counts, primary = report.ledger.comparisons, report.ledger.primary
    total, together = sum(counts.values()), sum(counts.get(name, 0) for name in primary)
    if not total:
        return ""
    comparisons = f"The table holds {total} comparison{'s' * (total != 1)} with the original"
    if not together:
        return f"{comparisons}, none of them judged. "
    names = ", ".join(map(heading, primary))
    return f"{comparisons}; judged: {names}, {together} together (Holm, 5 %). "


def floors(report: Report) -> list[str]:
    """``KL floor 3.1e-13: what an unchanged model reads on this host``: a smaller distance says nothing."""
    scores = {s.metric: s for row in report.rows for s in row.scores.values() if s.floor is not None}
    return [f"{heading(n)} {floor(s)}: what an unchanged model reads on this host" for n, s in scores.items()]


def floor(score: Score) -> str:
    """``floor 3.1e-13``; nothing where the score is no distance."""
    return "" if score.floor is None else f"floor {value(score.unit, score.floor)}"


def noise(report: Report) -> list[str]:
    """What distances and times are worth here, the arithmetic behind each row, and what was not run."""
    return [*floors(report), *arithmetics(report), *host_spreads(report), *not_run(report)]


def arithmetics(report: Report) -> list[str]:
    """``Scored in torch: float32 activations, head and logits: original, rtn``."""
    rows: dict[str, list[str]] = {}
    for row in report.rows:
        if row.arithmetic:
            rows.setdefault(row.arithmetic, []).append(row.label)
    return [f"Scored in {arithmetic}: {', '.join(labels)}" for arithmetic, labels in rows.items()]


def not_run(report: Report) -> list[str]:
    """``coreml: mobile was not run: Core ML runs on macOS only``: what is not counted of it is unknown."""
    return [f"{row.label} was {NOT_RUN}: {row.not_run}" for row in report.rows if row.not_run]


def absent(row: Row) -> str:
    """In place of a score that a row does not have."""
    return NOT_RUN if row.not_run else ABSENT


def host_spreads(report: Report) -> list[str]:
    """``latency: this host times the original against itself to within 1.2 %``: nothing nearer to 1 is a change."""
    spreads = {
        name: clock["host_spread"]
        for row in report.rows
        for name in row.timings
        if isinstance(clock := row.measured.get(name), dict) and "host_spread" in clock
    }
    return [
        f"{heading(n)}: this host times the original against itself to within {100 * spread:.1f} %"
        for n, spread in spreads.items()
    ]


def clock(row: Row, metric: str) -> str:
    """What the stopwatch said of a timed score, ``1.20 ms → 0.66 ms``; nothing where it says nothing."""
    timing = row.measured.get(metric)
    times = [timing.get(name) for name in ("original_ms", "new_ms")] if isinstance(timing, dict) else []
    texts = [milliseconds(time) for time in times if isinstance(time, int | float)]
    return " → ".join(texts) if len(texts) == 2 else ""


def sentence(score: Score) -> str:
    """``top-1 80.41 % (-0.34 points [-0.72, +0.04])``: verdicts come when all rows are there."""
    change = f" ({change_text(score.unit, score.to_original)})" if score.to_original else ""
    return f"{heading(score.metric)} {value(score.unit, score.value)}{change}"


def shape(dimensions: tuple[int, ...]) -> str:
    """``16x3x3x3``."""
    return TIMES.join(str(size) for size in dimensions)


def cost(report: Report) -> str:
    """``took 2 min 14 s, at most 1.21 GB of memory``; nothing where neither is known."""
    parts = []
    if report.seconds is not None:
        parts.append(f"took {duration(report.seconds)}")
    if report.peak_memory_bytes is not None:
        parts.append(f"at most {size(report.peak_memory_bytes)} of memory")
    if report.peak_store_bytes is not None:
        parts.append(f"{size(report.peak_store_bytes)} in the store")
    return ", ".join(parts)
