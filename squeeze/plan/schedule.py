"""In which order a run makes its models, and until when it needs each of them.

A run knows models by their keys in the store, a check by the passes that made them: both are keys here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from squeeze.plan.document import Place
from squeeze.plan.plan import Branch, Plan, Step
from squeeze.targets.base import Target

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class WorkItem(Generic[K]):
    """One thing that a run does: a pass, or a target's files and their package.

    Args:
        step: None: it is the target.
        makes: The model that later steps begin from; then those of other calibration samples.
        needs: The model that it begins from.
    """

    branch: Branch | None
    step: Step | None
    makes: tuple[K, ...]
    needs: K

    @property
    def target(self) -> Target[Any] | None:
        """Whose files are made, where no pass is run."""
        return self.branch.target if self.step is None and self.branch is not None else None

    @property
    def place(self) -> Place:
        """In the plan."""
        return self.step.place if self.step is not None else self.branch.place if self.branch is not None else ()


def schedule(
    plan: Plan, original: K, passed: Callable[[Step, K], tuple[K, ...]], built: Callable[[Branch, K], K]
) -> list[WorkItem[K]]:
    """Everything that a run does, in order: the trunk, then each branch to its end.

    Args:
        passed: The keys of what a step makes of the model before it.
        built: The key of a branch's files.
    """
    items: list[WorkItem[K]] = []

    def follow(steps: tuple[Step, ...], branch: Branch | None, before: K) -> K:
        for step in steps:
            items.append(WorkItem(branch, step, passed(step, before), before))
            before = items[-1].makes[0]
        return before

    trunk = follow(plan.steps, None, original)
    for branch in plan.branches:
        end = follow(branch.steps, branch, trunk)
        if branch.target is not None:
            items.append(WorkItem(branch, None, (built(branch, end),), end))
    return items


def free_after(items: Sequence[WorkItem[K]], original: K, packs: bool) -> list[list[K]]:
    """After each of them, the models that nothing needs any more.

    What a plan is for stays: the end of a plan without targets, a target's files that no package holds, and what is
    held against a device, which every run does anew.

    Args:
        packs: Whether targets are packed.
    """
    last = {key: place for place, one in enumerate(items) for key in (*one.makes, one.needs)}
    results = {one.makes[0] for one in items if one.target is not None and not packs}
    results |= {key for one in items if one.target and one.target.device for key in (one.needs, one.makes[0])}
    if items and items[-1].branch is None:
        results.add(items[-1].makes[0])
    free: list[list[K]] = [[] for _ in items]
    for key, place in last.items():
        if key not in results | {original}:
            free[place].append(key)
    return free
