"""The ledger on a terminal: the fullest of these layouts that fits its width.

full       a column per metric; under each value its change from the original with the 95 % interval
tall       the interval has a line of its own
compact    no intervals, no forms
stacked    a line per pass and metric, everything in words: for many metrics on a narrow terminal
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import zip_longest
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from squeeze.report import text
from squeeze.report.shape import Report, Row, Score, as_report

STYLES = {"better": "green", "worse": "red", "kept": "green", "broken": "bold red", "unproven": "yellow"}
WIDTH = 100

Below = Callable[[Row, Score], str]


def ledger_table(report: Mapping[str, Any], width: int = WIDTH) -> Table:
    """The ledger for a terminal of that many columns."""
    data, console = as_report(report), Console(width=1000)
    for below, forms in ((_change_with_interval, True), (_interval_below, True), (_change_alone, False)):
        table = _columns(data, below, forms)
        if Measurement.get(console, console.options, table).maximum <= width:
            return table
    return _stacked(data)


def row_line(row: Mapping[str, Any]) -> str:
    """One row as one line, for the moment in which a pass finishes."""
    data = as_report({"schema": 1, "name": "", "ledger": {"rows": [row]}}).rows[0]
    scores = [text.sentence(score) for score in (*data.scores.values(), *data.timings.values())]
    scores += [f"{text.NOT_RUN}: {data.not_run}"] if data.not_run else []
    label = f"{data.label} ({data.form})" if data.form else data.label
    return f"{label}: {', '.join(scores) or 'not scored'}"


def _columns(report: Report, below: Below, forms: bool) -> Table:
    table = _empty(report)
    table.add_column("pass", no_wrap=True)
    if forms:
        table.add_column("form", no_wrap=True)
    for metric in report.metrics():
        table.add_column(text.heading(metric.metric), justify="right", no_wrap=True)
    for row, following in zip_longest(report.rows, report.rows[1:]):
        cells = [_cell(row, row.score(metric.metric), below) for metric in report.metrics()]
        form = [Text(row.form, "dim")] if forms else []
        table.add_row(Text(row.label), *form, *cells, end_section=bool(following and following.branch != row.branch))
    return table


def _cell(row: Row, score: Score | None, below: Below) -> Text:
    if score is None:
        return Text(text.absent(row), "dim")
    cell = Text(text.marked(score), _style(score))
    if change := below(row, score):
        cell.append(f"\n{change}", "dim not bold")
    return cell


def _change_with_interval(row: Row, score: Score) -> str:
    if score.unit == "ratio":
        return f"{_new_clock(row, score)} {text.interval(score.unit, score.interval)}".strip()
    return _short(text.change_text(score.unit, score.to_original))


def _interval_below(row: Row, score: Score) -> str:
    return _change_with_interval(row, score).replace(" [", "\n[")


def _change_alone(row: Row, score: Score) -> str:
    if score.unit == "ratio":
        return _new_clock(row, score)
    return _short(text.change(score.unit, score.to_original)) if score.to_original else ""


def _new_clock(row: Row, score: Score) -> str:
    return text.clock(row, score.metric).rpartition("→ ")[2]


def _short(change: str) -> str:
    """A column of shares says points by its percent sign; the word stays in the wordy outputs."""
    return change.replace(" points", "")


def _stacked(report: Report) -> Table:
    table = _empty(report)
    table.add_column("pass, metric", overflow="fold")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("to the original")
    table.add_column("verdict", no_wrap=True)
    for row in report.rows:
        scores = [*row.scores.values(), *row.timings.values()]
        table.add_row(Text(row.label, "bold"), end_section=not scores)
        for score in scores:
            table.add_row(*_stacked_cells(row, score), end_section=score is scores[-1])
    return table


def _stacked_cells(row: Row, score: Score) -> list[Text]:
    change = text.change_text(score.unit, score.to_original)
    if score.unit == "ratio":
        change = ", ".join(filter(None, (text.interval(score.unit, score.interval), text.clock(row, score.metric))))
    words = (f"  {text.heading(score.metric)}", text.value(score.unit, score.value), change)
    verdict = score.to_original.verdict if score.to_original else ""
    return [*map(Text, words), Text("" if verdict == "no verdict" else verdict, _style(score))]


def _empty(report: Report) -> Table:
    return Table(
        title=Text(report.name, "bold"),
        title_justify="left",
        caption=Text(_caption(report), "dim"),
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )


def _caption(report: Report) -> str:
    scored = report.ledger.scored_on
    on = f"Scored on {text.examples(scored)}. " if scored else ""
    own, noise = ("".join(f"{line}. " for line in lines) for lines in (text.own_data(report), text.noise(report)))
    against = f"Against the original: {text.LEGEND}. {text.judged(report)}"
    return f"{on}{own}{against}{noise}Brackets: 95 % interval or wider."


def _style(score: Score) -> str:
    return STYLES.get(score.to_original.verdict, "") if score.to_original else ""
