"""The first line of a report: which of its ends is not faster than the original, if any was timed and is not."""

from __future__ import annotations

from collections.abc import Iterator

from squeeze.report import text
from squeeze.report.shape import Report, Row


def headline(report: Report) -> str:
    """``Not faster than the original: litert: mobile (latency 1.08x [1.06, 1.10])``; nothing where all are faster.

    A ratio that is not shown to be slower either, within its interval or within what a clock can tell, is said to be
    not told apart.
    """
    rows = [f"{row.label} ({', '.join(lines)})" for row in report.ends().values() if (lines := list(_slow(row)))]
    return f"Not faster than the original: {'; '.join(rows)}" if rows else ""


def _slow(row: Row) -> Iterator[str]:
    for score in row.timings.values():
        delta = score.to_original
        if delta is not None and delta.ratio is not None and delta.verdict != "better":
            ratio = f"{text.change(score.unit, delta)} {text.change_interval(score.unit, delta)}".rstrip()
            doubt = "" if delta.verdict in ("worse", "same") else ", not told apart"
            yield f"{text.heading(score.metric)} {ratio}{doubt}"
