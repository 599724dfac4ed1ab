"""What passes say of each weight that they fitted: tokens seen, loss by rounding or cutting alone and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from squeeze.report.shape import Report, Row
from squeeze.report.text import ABSENT, share

COLUMNS = ("weight", "tokens seen", "loss uncorrected", "loss after", "loss left", "clipped", "note")
WORST = 3  # weights that a terminal names
PLAIN_LOSSES = {"loss_rtn": "rounding", "loss_cut": "cutting"}  # by name among facts: what was done alone


@dataclass(frozen=True)
class WeightLine:
    """One weight of one row; the loss is the squared error of its outputs per token, summed over them.

    Args:
        before: Where nothing makes up for what was done to the weight: rounding alone, or cutting.
        alone: What that was; empty: not told.
    """

    name: str
    tokens: int
    before: float | None
    after: float | None
    clipped: float | None
    note: str
    alone: str = ""

    @property
    def loss_share(self) -> float | None:
        """Share of the loss before that is still there."""
        return None if not self.before or self.after is None else self.after / self.before

    def cells(self) -> tuple[str, ...]:
        """Under :data:`COLUMNS`."""
        losses = [ABSENT if loss is None else f"{loss:.4g}" for loss in (self.before, self.after)]
        shares = [ABSENT if part is None else share(part) for part in (self.loss_share, self.clipped)]
        return self.name, f"{self.tokens:,}", *losses, *shares, self.note

    def numbers(self) -> tuple[float, ...]:
        """What a table sorts by, for every column between the name and the note."""
        columns = (self.tokens, self.before, self.after, self.loss_share, self.clipped)
        return tuple(-1.0 if number is None else float(number) for number in columns)


def weight_tables(report: Report) -> list[tuple[Row, list[WeightLine]]]:
    """Rows whose pass looked at data, and their weights in the model's order."""
    tables = [(row, weight_lines(row)) for row in report.rows]
    return [(row, lines) for row, lines in tables if lines]


def weight_lines(row: Row) -> list[WeightLine]:
    """The weights that a row's pass tells of; a pass of another's may use the name for something else."""
    layers = row.facts.get("layers")
    if not isinstance(layers, dict):
        return []
    facts_of = {str(name): facts for name, facts in layers.items() if isinstance(facts, dict)}
    return [_line(name, facts) for name, facts in facts_of.items() if isinstance(facts.get("tokens"), int)]


def worst(row: Row) -> str:
    """The weights with most loss left, and any that fell back, on one line; nothing where no loss is told."""
    lines = [line for line in weight_lines(row) if line.after is not None]
    most = sorted(lines, key=lambda line: -(line.after or 0))[:WORST]
    return ", ".join(f"{line.name} ({line.after:.4g}{_share_of(line)})" for line in most)


def _share_of(line: WeightLine) -> str:
    return "" if line.loss_share is None else f", {share(line.loss_share)} of {line.alone}'s"


def _line(name: str, facts: dict[str, Any]) -> WeightLine:
    plain, alone = next(((key, word) for key, word in PLAIN_LOSSES.items() if key in facts), ("", ""))
    before, after, clipped = (_number(facts.get(key)) for key in (plain, "loss", "clipped"))
    notes = [f"fell back to {facts['fallback']}"] if "fallback" in facts else []
    notes += [f"{facts['dead']} dead inputs"] if facts.get("dead") else []
    notes += [f"scaled by {facts['folded']}"] if "folded" in facts else []
    return WeightLine(name.removesuffix(".weight"), facts["tokens"], before, after, clipped, ", ".join(notes), alone)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
