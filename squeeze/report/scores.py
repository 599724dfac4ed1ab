"""Every score in words: what a page's full table lists, whatever the page is written in."""

from __future__ import annotations

from squeeze.report import text
from squeeze.report.shape import Delta, Report, Row, Score

SCORE_HEADINGS = (
    "pass",
    "metric",
    "value",
    "to the original",
    "verdict",
    "smallest change that would show, or floor",
    "to the row before",
    "verdict",
)


def score_lines(report: Report) -> list[tuple[str, ...]]:
    """One line per row and metric, under :data:`SCORE_HEADINGS`."""
    return [_line(row, score) for row in report.rows for score in (*row.scores.values(), *row.timings.values())]


def _line(row: Row, score: Score) -> tuple[str, ...]:
    value = f"{text.value(score.unit, score.value)} {text.interval(score.unit, score.interval)}".rstrip()
    to_original, to_previous = _moved(score, score.to_original), _moved(score, score.to_previous)
    if clock := text.clock(row, score.metric):  # the value is the ratio to the original already
        to_original = (clock, to_original[1])
    smallest = text.floor(score) or text.smallest_seen(score.unit, score.to_original)
    return (row.label, text.heading(score.metric), value, *to_original, smallest, *to_previous)


def _moved(score: Score, delta: Delta | None) -> tuple[str, str]:
    return (text.change_text(score.unit, delta), text.verdict(score.unit, delta)) if delta else ("", "")
