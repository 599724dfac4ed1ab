"""The report as GitHub-flavoured markdown: for a merge request, a wiki, a commit beside the model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from squeeze.report import duration, equality, layers, text, weights
from squeeze.report.facts import fact_lines
from squeeze.report.headline import headline
from squeeze.report.reproduce import RUN_AGAIN, plan_yaml
from squeeze.report.scores import SCORE_HEADINGS, score_lines
from squeeze.report.shape import Judgement, Package, Report, Row, Score, as_report

SPECIAL = re.compile(r"([\\`*|~]|\](?=[(\[:])|(?<!\w)_|_(?!\w))")  # inside a word, an underscore is one
OUTCOMES = {"kept": "✓ kept", "broken": "✗ **broken**", "unproven": "≈ unproven"}


def markdown_report(report: Mapping[str, Any]) -> str:
    """The whole report; the same report gives the same bytes."""
    data = as_report(report)
    parts = (
        _head(data),
        _overview(data),
        _section("Budget", ("branch", "line", "outcome"), map(_judgement, data.judgements)),
        _section("Packages", ("file", "size", "digest", "verified", "notes"), map(_package, data.packages)),
        _section("Every score", SCORE_HEADINGS, map(_escaped, score_lines(data))),
        _facts(data),
        _section("How long it took", duration.COLUMNS, map(_escaped, duration.duration_cells(data))),
        _section("The same weights in every file", equality.COLUMNS, map(_escaped, equality.equality_lines(data))),
        _weights(data),
        _layers(data),
        _reproduce(data),
    )
    return "\n\n".join("\n".join(lines) for part in parts if (lines := list(part))) + "\n"


def escaped(words: object) -> str:
    """Text that markdown and HTML show as it is, on one line."""
    plain = " ".join(str(words).split())
    return SPECIAL.sub(r"\\\1", plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def _head(report: Report) -> Iterator[str]:
    yield f"# {escaped(report.name)}"
    yield ""
    if line := headline(report):
        yield f"**{escaped(line)}.**"
        yield ""
    if report.failure:
        yield f"**Stopped:** {escaped(report.failure.line)}"
        yield ""
    scored = report.ledger.scored_on
    if scored:
        yield f"Scored on {escaped(text.examples(scored))} (sha256 {scored.sha256[:12]})."
    yield from (f"{escaped(line)}." for line in text.own_data(report))
    yield from (f"\n**Warning:** {escaped(line)}.\n" for line in report.warnings)
    version = f"Squeeze {escaped(report.squeeze)}" if report.squeeze else "Squeeze"
    yield f"Made by {version}{f'; {cost}' if (cost := text.cost(report)) else ''}."


def _overview(report: Report) -> Iterator[str]:
    yield "## Ledger"
    yield ""
    metrics = report.metrics()
    rows = [
        [escaped(row.label), escaped(row.form), *(_cell(row, row.score(m.metric)) for m in metrics)]
        for row in report.rows
    ]
    yield from _table(["pass", "form", *(escaped(text.heading(metric.metric)) for metric in metrics)], rows)
    yield ""
    yield f"Second line: change from the original, with its interval, 95 % or wider. {text.LEGEND}."
    yield escaped(text.judged(report))
    yield from (f"{escaped(line)}." for line in text.noise(report))


def _cell(row: Row, score: Score | None) -> str:
    if score is None:
        return text.absent(row)
    change = "" if score.unit == "ratio" else text.change_text(score.unit, score.to_original)
    below = change or text.interval(score.unit, score.interval)
    return escaped(text.marked(score)) + (f"<br><sub>{escaped(below)}</sub>" if below else "")


def _judgement(judgement: Judgement) -> list[str]:
    return [escaped(judgement.branch or ""), escaped(judgement.line), OUTCOMES[judgement.outcome]]


def _package(package: Package) -> list[str]:
    verified, notes = "✓ yes" if package.verified else "✗ **no**", "<br>".join(_escaped(package.notes))
    return [escaped(package.path), text.size(package.size_bytes), escaped(package.digest), verified, notes]


def _facts(report: Report) -> Iterator[str]:
    with_facts = [(row, lines) for row in report.rows if (lines := fact_lines(row))]
    if with_facts:
        yield "## What the passes did"
    for row, lines in with_facts:
        yield f"\n**{escaped(row.label)}**\n"
        yield from (f"- {escaped(name)}: {escaped(line)}" for name, line in lines)


def _weights(report: Report) -> Iterator[str]:
    tables = weights.weight_tables(report)
    if tables:
        yield "## Weights"
    for row, lines in tables:
        yield f"\n<details><summary>{escaped(row.label)}: {len(lines)} weights</summary>\n"
        yield from _table(weights.COLUMNS, [_escaped(line.cells()) for line in lines])
        yield "\n</details>"


def _layers(report: Report) -> Iterator[str]:
    tables = layers.layer_tables(report)
    if tables:
        yield "## Layers"
    for name, pairs in tables.items():
        yield f"\n<details><summary>{escaped(name)}: {len(pairs)} layers</summary>\n"
        yield from _table(["layer", "kind", *layers.COLUMNS.values()], map(_layer_row, pairs))
        yield "\n</details>"


def _layer_row(pair: layers.LayerPair) -> list[str]:
    name = escaped(pair.layer.name) + (f" ({pair.note})" if pair.note else "")
    return [name, escaped(pair.layer.kind), *(pair.change(field) for field in layers.COLUMNS)]


def _reproduce(report: Report) -> Iterator[str]:
    plan = plan_yaml(report)
    if not plan:
        return
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", plan)), default=0))
    yield "## Run it again"
    yield f"\nWith this as `plan.yaml`:\n\n{fence}sh\n{RUN_AGAIN}\n{fence}\n\n{fence}yaml\n{plan}{fence}"
    if report.host:
        yield "\nMeasured on: " + ", ".join(f"{escaped(k)} {escaped(v)}" for k, v in report.host.items()) + "."


def _escaped(cells: Iterable[str]) -> list[str]:
    return [escaped(cell) for cell in cells]


def _section(title: str, heads: Sequence[str], rows: Iterable[list[str]]) -> Iterator[str]:
    """A heading and a table; nothing where it has no rows."""
    if lines := list(rows):
        yield f"## {title}"
        yield ""
        yield from _table(heads, lines)


def _table(heads: Sequence[str], rows: Iterable[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    yield from (f"| {' | '.join(row)} |" for row in rows)
