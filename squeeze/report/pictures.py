"""The report's pictures as SVG text: what each pass did to size, score and speed, with the intervals.

How a figure becomes part of a page is the business of :mod:`squeeze.report.svg`.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from squeeze.report import text
from squeeze.report.shape import Report, Row, Score
from squeeze.report.svg import BETTER, INK, LINES, NEUTRAL, SOFT, WORSE, drawing

GUTTER = 0.26  # at the right of a panel, as a share of it: no mark and no tick is there
ROW_HEIGHT, LEAST_HEIGHT, WIDTH = 0.42, 1.3, 11.0  # inches


def pass_picture(report: Report) -> str | None:
    """One line per row of the ledger and a panel each for size, score and latency; None where nothing was measured."""
    panels = _panels(report)
    if not panels or len(report.rows) < 2:
        return None
    height = LEAST_HEIGHT + ROW_HEIGHT * len(report.rows)
    with drawing(WIDTH, height, "passes") as picture:
        axes = picture.figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, metric in zip(axes, panels, strict=True):
            _panel(axis, report, metric)
        axes[0].set_yticks(range(len(report.rows)), [_cut(row.label) for row in report.rows])
        axes[0].invert_yaxis()
    return picture.svg


def branch_picture(report: Report) -> str | None:
    """Size against score, a line per branch from the original to its package; None where there is one way only."""
    branches = [branch for branch in report.ends() if branch is not None]
    score, size = _score_metric(report), _size_metric(report)
    if len(branches) < 2 or score is None or size is None:
        return None
    with drawing(WIDTH, 4.2, "branches") as picture:
        axis = picture.figure.subplots()
        metrics = (size.metric, score.metric)
        _way(axis, report.trunk_ends(), metrics, ("before the branches", SOFT))
        for number, branch in enumerate(branches):
            rows = [*report.trunk_ends()[-1:], *(row for row in report.rows if row.branch == branch)]
            _way(axis, rows, metrics, (branch, LINES[number % len(LINES)]))
        _label_axes(axis, size, score)
    return picture.svg


def _label_axes(axis: Axes, size: Score, score: Score) -> None:
    axis.set_xlabel(text.heading(size.metric))
    axis.set_ylabel(text.heading(score.metric))
    axis.xaxis.set_major_formatter(lambda number, _: text.value(size.unit, number))
    axis.yaxis.set_major_formatter(lambda number, _: text.value(score.unit, number))
    axis.locator_params(axis="y", nbins=5)
    axis.set_xlim(left=0)
    axis.grid(visible=True, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=6, borderpad=0)


def _panels(report: Report) -> list[Score]:
    timed = next((metric for metric in report.metrics() if metric.unit == "ratio"), None)
    metrics = (_size_metric(report), _score_metric(report), timed)
    return [metric for metric in metrics if metric is not None and _every_end(report, metric)]


def _size_metric(report: Report) -> Score | None:
    return next((metric for metric in report.metrics() if metric.unit == "bytes"), None)


def _score_metric(report: Report) -> Score | None:
    """The first that the original is scored on and that is not zero there, as flips and KL are by definition."""
    scored = [metric for metric in report.metrics() if metric.unit not in ("bytes", "count", "ratio")]
    return next((metric for metric in scored if metric.value), None)


def _panel(axis: Axes, report: Report, metric: Score) -> None:
    axis.set_title(text.heading(metric.metric), loc="left", fontsize=11, fontweight="bold")
    axis.xaxis.set_major_formatter(lambda number, _: text.value(metric.unit, number))
    low, high = _worth_seeing(report, metric)
    for place, row in enumerate(report.rows):
        score = row.score(metric.metric)
        if score is not None and score.value is not None:
            _mark(axis, place, score, min(max(score.value, low), high))
    if metric.unit == "ratio":
        axis.axvline(1.0, ymax=0.98, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axis.set_xticks([tick for tick in MaxNLocator(3).tick_values(low, high) if low <= tick <= high])
    axis.set_xlim(low, low + (high - low) / (1 - GUTTER))  # the gutter is for the numbers
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.grid(visible=True, axis="x", linewidth=0.6)
    axis.set_axisbelow(True)


def _worth_seeing(report: Report, metric: Score) -> tuple[float, float]:
    """From zero for bytes; else so that the original's and the results' intervals can be read.

    A row far outside (pruned, not yet trained again) is drawn as an arrow at the edge: it would flatten the others.
    """
    scores = [row.score(metric.metric) for row in (report.rows[0], *report.ends().values())]
    ends = [end for score in scores if score for end in _ends(score)]
    every = _every_end(report, metric)
    if metric.unit == "bytes":
        return 0.0, max(every) * 1.02
    if metric.unit == "ratio":
        ends, every = [*ends, 1.0], [*every, 1.0]
    low, high = min(ends or every), max(ends or every)
    reach = 2 * (high - low) or 1.0
    low, high = max(min(every), low - reach), min(max(every), high + reach)
    margin = 0.08 * (high - low) or 0.01
    return low - margin, high + margin


def _every_end(report: Report, metric: Score) -> list[float]:
    """Values and interval ends of all rows for a metric; empty where no row could be scored."""
    return [end for row in report.rows if (score := row.score(metric.metric)) for end in _ends(score)]


def _ends(score: Score) -> tuple[float, ...]:
    return score.interval or (() if score.value is None else (score.value,))


def _mark(axis: Axes, place: int, score: Score, x: float) -> None:
    """A bar from zero for bytes; else a dot in its interval, an arrow where it lies beyond the panel."""
    verdict = score.to_original.verdict if score.to_original else ""
    color = {"better": BETTER, "worse": WORSE}.get(verdict, NEUTRAL)
    if score.unit == "bytes":
        axis.barh(place, x, height=0.55, color=color)
    elif x == score.value:
        axis.plot(score.interval or [x] * 2, [place] * 2, color=color, linewidth=3, alpha=0.5)
        axis.plot([x], [place], "o", color=color, markersize=6)
    else:
        axis.plot([x], [place], "<" if score.value is not None and score.value < x else ">", color=color, clip_on=False)
    words = text.value(score.unit, score.value)
    axis.text(1.0, place, words, transform=axis.get_yaxis_transform(), ha="right", va="center", fontsize=10)


def _way(axis: Axes, rows: list[Row], metrics: tuple[str, str], style: tuple[str, str]) -> None:
    name, color = style
    points = []
    for row in rows:
        size, score = (row.score(metric) for metric in metrics)
        if size and score and size.value is not None and score.value is not None:
            points.append((size.value, score.value))
            axis.plot([size.value] * 2, score.interval or [score.value] * 2, color=color, linewidth=2.5, alpha=0.4)
    axis.plot([x for x, _ in points], [y for _, y in points], "o-", color=color, label=_cut(name), linewidth=1.6)


def _cut(label: str, longest: int = 34) -> str:
    return label if len(label) <= longest else label[: longest - 1] + "…"
