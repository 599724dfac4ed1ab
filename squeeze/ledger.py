"""The ledger: one row per pass; what each score is, how it moved, how sure we are, and the verdict.

What a clock measured stands apart from what must be the same bytes on every run: ``Row.timings`` and ``Row.scores``.
One primary metric is judged, over all rows together; every other score has its interval and no verdict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from typing import Any

from squeeze.comparison import Delta, Margin, holm
from squeeze.evaluate.evidence.base import Answered, ScoredOn
from squeeze.recovered import Recovered, recovered
from squeeze.scores import Estimated, Measured, Score, measure, scores, timed_score

__all__ = [
    "Answered",
    "Delta",
    "Estimated",
    "Ledger",
    "Measured",
    "Recovered",
    "Row",
    "Score",
    "ScoredOn",
    "measure",
    "recovered",
    "scores",
    "timed_score",
]

NOT_PRIMARY = "not the primary metric"
NOT_TO_PREVIOUS = "only changes from the original are judged"
LIVE = (
    "at",
    "ratio_at",
    "higher_is_better",
    "values",
    "unit_numbers",
)  # functions and arrays; not part of what is written down


@dataclass(frozen=True)
class Row:
    """One pass, measured."""

    name: str  # the pass, or "original"
    branch: str | None  # the target whose tail the pass belongs to; None: the trunk
    form: str
    key: str
    options: dict[str, Any]
    scores: dict[str, Score]
    facts: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, Score] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    spread: dict[str, list[float]] = field(default_factory=dict)  # by metric: its value, then with other calibrations
    arithmetic: str = ""  # arithmetic of the scores, where rows differ in it
    recovered: dict[str, Recovered] = field(default_factory=dict)  # by metric, for a pass that trains
    not_run: str = ""  # why the model gave no answers here, so that only what is counted has a score

    def score(self, metric: str) -> Score | None:
        """The score of that name, timed or not."""
        return self.scores.get(metric) or self.timings.get(metric)

    def delta(self, metric: str) -> Delta | None:
        """How a score that is no timing moved from the original's."""
        score = self.scores.get(metric)
        return score.to_original if score else None

    def to_json(self, timings: bool = True) -> dict[str, Any]:
        """JSON values; without timings, the same on every run."""
        values = {name: written(value) for name, value in vars(self).items()}
        if not timings:
            del values["timings"], values["measured"]
        return values


def written(value: Any) -> Any:
    """Dataclasses as dicts, without what only lives in memory."""
    if is_dataclass(value) and not isinstance(value, type):
        return {name: written(inner) for name, inner in vars(value).items() if name not in LIVE}
    if isinstance(value, dict):
        return {name: written(inner) for name, inner in value.items()}
    return value


@dataclass
class Ledger:
    """Rows in the order in which they were made; the first is the original.

    Args:
        primary: Metrics whose changes from the original are judged, together over all rows; empty: not yet.
    """

    scored_on: ScoredOn | None
    rows: list[Row] = field(default_factory=list)
    primary: tuple[str, ...] = ()

    def to_json(self, timings: bool = True) -> dict[str, Any]:
        """JSON values; without timings, the same on every run."""
        scored_on = asdict(self.scored_on) if self.scored_on else None
        header = {"scored_on": scored_on, "primary": list(self.primary), "comparisons": self.comparisons()}
        return header | {"rows": [row.to_json(timings) for row in self.rows]}

    def comparisons(self) -> dict[str, int]:
        """By metric: how many of its changes from the original chance has a part in."""
        uncertain = [label for row in self.rows for label in row.scores if (d := row.delta(label)) and d.at]
        return dict(Counter(uncertain))

    def settled(self, primary: Sequence[str], margins: Mapping[str, Margin] | None = None) -> Ledger:
        """The same rows, judged together: Holm over all changes of the primary metrics; the others are not judged."""
        places = [(row, label) for row in range(len(self.rows)) for label in primary if self._is_judged(row, label)]
        levels = dict(zip(places, holm([_moved(self.rows[row], label) for row, label in places]), strict=True))
        rows = [
            replace(
                row, scores={m: _settled(s, levels.get((i, m)), (margins or {}).get(m)) for m, s in row.scores.items()}
            )
            for i, row in enumerate(self.rows)
        ]
        return Ledger(self.scored_on, rows, tuple(primary))

    def _is_judged(self, row: int, label: str) -> bool:
        delta = self.rows[row].delta(label)
        return delta is not None and delta.judged

    @property
    def original(self) -> Row:
        """The row of the model before pass 1."""
        return self.rows[0]

    def line_of(self, branch: str | None) -> list[Row]:
        """The rows that lead to a branch's end: the trunk, then its own."""
        return [row for row in self.rows if row.branch in (None, branch)]


def _moved(row: Row, label: str) -> Delta:
    delta = row.delta(label)
    assert delta is not None
    return delta


def _settled(score: Score, level: float | None, margin: Margin | None) -> Score:
    """A score with its final verdicts; ``level`` None: it is none of the primary metric's."""
    first, second = score.to_original, score.to_previous
    if first is not None:
        first = first.unjudged(NOT_PRIMARY) if level is None else first.judged_at(level, margin)
    return replace(score, to_original=first, to_previous=second.unjudged(NOT_TO_PREVIOUS) if second else None)
