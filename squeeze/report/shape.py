"""The report as data: what ``report.json`` holds, checked once, so that no renderer meets a surprise.

Field for field the JSON of the ledger, the budget's judgements and the packages. It computes nothing:
scores and verdicts are the ledger's business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from squeeze.errors import printable

SCHEMA = 1
ORIGINAL = "original"

Outcome = Literal["kept", "broken", "unproven"]


def _whole_or_none(ends: Any) -> Any:
    """An interval with an end that is not a number is no interval."""
    return None if isinstance(ends, list) and None in ends else ends


Interval = Annotated[tuple[float, float] | None, BeforeValidator(_whole_or_none)]


class Part(BaseModel):
    """One piece of a report; keys of later versions are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Delta(Part):
    """How a score moved."""

    difference: float | None
    difference_interval: Interval = None
    ratio: float | None = None
    ratio_interval: Interval = None
    verdict: str
    paired: bool = True
    level: float = 0.95
    why: str = ""
    smallest_seen: float | None = None
    units: int | None = None


class ScoredOn(Part):
    """Which data the scores belong to."""

    name: str
    sha256: str
    examples: int
    units: int | None = None
    copies: int = 0
    tokens: int | None = None


class Score(Part):
    """One metric of one row."""

    metric: str
    unit: str
    value: float | None
    interval: Interval = None
    to_original: Delta | None = None
    to_previous: Delta | None = None
    scored_on: ScoredOn | None = None  # None: the ledger's own
    exact: bool = False
    units: int | None = None
    floor: float | None = None


class Recovered(Part):
    """The share of a loss that a training won back."""

    value: float
    interval: Interval = None


class Row(Part):
    """One pass, measured."""

    name: str
    branch: str | None = None
    form: str = ""
    options: dict[str, Any] = {}
    scores: dict[str, Score] = {}
    timings: dict[str, Score] = {}
    facts: dict[str, Any] = {}
    measured: dict[str, Any] = {}
    spread: dict[str, list[float]] = {}
    arithmetic: str = ""
    recovered: dict[str, Recovered] = {}
    not_run: str = ""

    @property
    def label(self) -> str:
        """``cpu: export_onnx`` in a branch, ``prune_channels`` in the trunk."""
        return f"{self.branch}: {self.name}" if self.branch else self.name

    def score(self, metric: str) -> Score | None:
        """The score of that name, timed or not."""
        return self.scores.get(metric) or self.timings.get(metric)


class Ledger(Part):
    """Rows in the order in which they were made; the first is the original."""

    scored_on: ScoredOn | None = None
    primary: list[str] = []
    comparisons: dict[str, int] = {}
    rows: list[Row] = []


class Judgement(Part):
    """One line of the budget, held against the end of a branch."""

    branch: str | None = None
    metric: str
    written: str
    outcome: Outcome
    line: str
    unknown: bool = False


class Package(Part):
    """One packed file; its path is relative to the report's folder."""

    branch: str | None = None
    path: str
    digest: str
    size_bytes: int
    verified: bool
    notes: list[str] = []


class Layer(Part):
    """One layer of a model, as counted."""

    name: str
    kind: str
    parameters: int
    nbytes: int
    macs: int | None
    shape: tuple[int, ...] = ()


class Failure(Part):
    """The pass at which a run stopped, and the line that says why."""

    name: str
    branch: str | None = None
    line: str


class Report(Part):
    """All that a report shows."""

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    name: str
    squeeze: str = ""
    plan: dict[str, Any] = {}
    ledger: Ledger = Ledger()
    judgements: list[Judgement] = []
    packages: list[Package] = []
    layers: dict[str, list[Layer]] = {}
    host: dict[str, Any] = {}
    peak_memory_bytes: int | None = None
    peak_store_bytes: int | None = None
    seconds: float | None = None
    store: str = ""
    failure: Failure | None = None
    warnings: list[str] = []

    @property
    def rows(self) -> list[Row]:
        return self.ledger.rows

    @property
    def strict(self) -> bool:
        """Whether an unproven budget counts as broken."""
        return bool(self.plan.get("strict"))

    def metrics(self) -> list[Score]:
        """The first score of each metric: its name and unit, in the order in which they were asked for."""
        first: dict[str, Score] = {}
        for row in self.rows:
            for score in (*row.scores.values(), *row.timings.values()):
                first.setdefault(score.metric, score)
        return list(first.values())

    def ends(self) -> dict[str | None, Row]:
        """The last row of each branch; of the trunk, where there are no branches."""
        last = {row.branch: row for row in self.rows}
        if len(last) > 1:
            last.pop(None, None)
        return last

    def trunk_ends(self) -> list[Row]:
        """The original and what the trunk made of it."""
        trunk = [row for row in self.rows if row.branch is None]
        return trunk[:1] + trunk[1:][-1:]


def plain(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report as JSON gives it back: tuples are lists, keys are text, what is not a number is null."""
    values: dict[str, Any] = json.loads(json.dumps(report), parse_constant=lambda _: None)
    return values


def as_report(report: Mapping[str, Any]) -> Report:
    """The report's parts by name.

    Raises:
        pydantic.ValidationError: a part is absent or of another kind.
    """
    values = plain(report)
    return Report.model_validate({key: value if key == "plan" else _printable(value) for key, value in values.items()})


def _printable(value: Any) -> Any:
    """Without control characters and halves of letters: names of files, layers and classes are anybody's."""
    if isinstance(value, str):
        return "\n".join(map(printable, value.split("\n")))
    if isinstance(value, dict):
        return {printable(key): _printable(inner) for key, inner in value.items()}
    return [_printable(inner) for inner in value] if isinstance(value, list) else value
