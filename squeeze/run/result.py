"""What came out of a run: the ledger, the models, the packages, whether the budget was kept, and where it stopped."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from squeeze.budget import Judgement, judge_limit
from squeeze.errors import BudgetBroken, SqueezeError
from squeeze.ledger import Ledger
from squeeze.models.base import Layer, Model
from squeeze.peak import largest_process_bytes
from squeeze.plan.plan import Plan
from squeeze.store import Store
from squeeze.targets.base import Packed


@dataclass(frozen=True)
class Failure:
    """Where a run stopped, and why."""

    name: str
    branch: str | None
    line: str


@dataclass
class Run:
    """What came out: the ledger, the models, the packages and whether the budget was kept."""

    plan: Plan
    ledger: Ledger
    store: Store
    models: dict[str | None, Model] = field(default_factory=dict)  # by branch; None: the trunk's; what was not released
    packages: dict[str, Packed] = field(default_factory=dict)
    judgements: list[tuple[str | None, Judgement]] = field(default_factory=list)
    layers: dict[str, list[Layer]] = field(default_factory=dict)  # of the original and the last model of each branch
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    peak_store_bytes: int | None = None  # None: not counted, since the plan does not limit it
    failure: Failure | None = None
    warnings: list[str] = field(default_factory=list)  # data that may overlap between roles

    @property
    def broken(self) -> list[str]:
        """The lines that do not hold or are about what is unknown; with ``strict`` also those that are not proven."""
        bad = {"broken", "unproven"} if self.plan.strict else {"broken"}
        judged = [(branch, one) for branch, one in self.judgements if one.outcome in bad or one.unknown]
        return [f"{branch or 'result'}: {one.line()}" for branch, one in judged]

    def settle(self) -> None:
        """Judge the rows together, now that all are there."""
        self.ledger = self.ledger.settled(self.plan.primary, self.plan.equivalence)

    def cost(self, began: float) -> None:
        """Note how long it took and how much memory; the plan's ``memory:`` and ``disk:`` are judged."""
        self.seconds = time.monotonic() - began
        self.peak_memory_bytes = largest_process_bytes()
        limits = {"memory": self.plan.memory_bytes, "disk": self.plan.disk_bytes}
        peaks = {"memory": self.peak_memory_bytes, "disk": self.peak_store_bytes}
        for name, limit in limits.items():
            if limit is not None and (peak := peaks[name]) is not None:
                self.judgements.append((None, judge_limit(name, limit, peak)))

    def require_budget(self) -> None:
        """Raise ``BudgetBroken`` unless every line of the budget holds."""
        if self.broken:
            raise BudgetBroken("\n".join(self.broken))


class RunFailed(SqueezeError):
    """A pass or a package failed; ``run`` holds what was measured before, and the store what was finished."""

    def __init__(self, message: str, run: Run, exit_code: int) -> None:
        super().__init__(message)
        self.run, self.exit_code = run, exit_code
