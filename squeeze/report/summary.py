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

FACTS = ("coverage", "delegated", "device", "untouched")  # kernels used, device fit, layers left unchanged


def summary(report: Mapping[str, Any]) -> Group:
    """Budget lines, packages and cost, to print after the table; empty where there is nothing to say."""
    data = as_report(report)
    rows, cost = data.rows, text.cost(data)
    return Group(
        *([Text(f"stopped: {data.failure.line}", "bold red")] if data.failure else []),
        *(Text(f"warning: {line}", "yellow") for line in data.warnings),
        *(Text(f"{row.label}: {line}") for row in rows for name, line in fact_lines(row) if name in FACTS),
        *(Text(f"{row.label}: {text.heading(name)} {line}") for row in rows for name, line in spread_lines(row)),
        *(Text(f"{row.label}: recovered {line}") for row in rows for line in recovered_lines(row)),
        *(Text(f"{row.label}: most loss left in {line}") for row in rows if (line := worst(row))),
        *_equality(data),
        *(Text(line, "dim") for line in duration_lines(data)),
        *map(_budget, data.judgements),
        *map(_package, data.packages),
        *([Text(cost[0].upper() + cost[1:], "dim")] if cost else []),
    )


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
