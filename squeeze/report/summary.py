"""The lines under the ledger on a terminal: budget, packages, cost of the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.text import Text

from squeeze.report import text
from squeeze.report.duration import duration_lines
from squeeze.report.facts import fact_lines, recovered_lines, spread_lines
from squeeze.report.shape import Judgement, Package, Report, as_report
from squeeze.report.table import STYLES
from squeeze.report.weights import worst


def summary(report: Mapping[str, Any]) -> Group:
    """Budget lines, packages and cost, to print after the table; empty where there is nothing to say."""
    data = as_report(report)
    lines = [
        _failure(data),
        *(Text(f"warning: {line}", "yellow") for line in data.warnings),
        *_coverage(data),
        *_spread(data),
        *_recovered(data),
        *_worst(data),
        *_equality(data),
        *(Text(line, "dim") for line in duration_lines(data)),
        *map(_budget, data.judgements),
        *map(_package, data.packages),
        _cost(data),
    ]
    return Group(*(line for line in lines if line is not None))


FACTS = ("coverage", "delegated", "device", "untouched")  # kernels used, device fit, layers left unchanged


def _failure(report: Report) -> Text | None:
    return Text(f"stopped: {report.failure.line}", "bold red") if report.failure else None


def _coverage(report: Report) -> list[Text]:
    return [Text(f"{row.label}: {line}") for row in report.rows for name, line in fact_lines(row) if name in FACTS]


def _spread(report: Report) -> list[Text]:
    return [Text(f"{row.label}: {text.heading(n)} {line}") for row in report.rows for n, line in spread_lines(row)]


def _recovered(report: Report) -> list[Text]:
    return [Text(f"{row.label}: recovered {line}") for row in report.rows for line in recovered_lines(row)]


def _worst(report: Report) -> list[Text]:
    return [Text(f"{row.label}: most loss left in {line}") for row in report.rows if (line := worst(row))]


def _equality(report: Report) -> list[Text]:
    proofs = [line for row in report.rows for name, line in fact_lines(row) if name == "proof"]
    return [Text(f"weights equal: {line}") for line in dict.fromkeys(proofs)]


def _budget(judgement: Judgement) -> Text:
    where = f"budget {judgement.branch}: " if judgement.branch else "budget: "
    words, _, outcome = judgement.line.rpartition(": ")
    return Text(f"{where}{words}: ").append(outcome or judgement.outcome, STYLES[judgement.outcome])


def _package(package: Package) -> Text:
    line = Text(f"package {package.path}: {text.size(package.size_bytes)}, {package.digest[:19]}, ")
    line.append(*(("verified", "green") if package.verified else ("not verified", "bold red")))
    return line.append("".join(f"\n  {note}" for note in package.notes), "dim")


def _cost(report: Report) -> Text | None:
    cost = text.cost(report)
    return Text(cost[0].upper() + cost[1:], "dim") if cost else None
