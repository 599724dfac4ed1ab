"""Process 0's hold on the processes that a launcher started beside it: they wait, and help in its trainings.

Process 0 carries the plan out as if it were alone: it alone has the store, the ledger, OUT and the terminal, so no
lock is waited for and no pass is done twice. What a training needs it sends: the models' files and each batch's rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from squeeze.errors import Fault, PlanError, SqueezeError
from squeeze.plan.plan import Plan, Step
from squeeze.run.stored import StoredModel
from squeeze.training.launch import Launch, as_if_alone, launched

if TYPE_CHECKING:
    from squeeze.training.group import Group
    from squeeze.training.meeting import Meeting
    from squeeze.training.peers import Leader

Helpers = Callable[[bool], AbstractContextManager["Leader"]]


@dataclass
class Team:
    """The processes of a run; without a launcher, of one.

    Args:
        meeting: Where the others wait; None: there are no others.
        warnings: Lines for the report.
    """

    plan: Plan
    meeting: Meeting | None = None
    warnings: list[str] = field(default_factory=list)

    def helpers(self, step: Step, before: StoredModel, original: StoredModel) -> Helpers | None:
        """What calls the others to the training of one step; it is told whether they need the original."""
        if self.meeting is None:
            return None
        meeting, pass_ = self.meeting, step.pass_

        @contextmanager
        def training(asks_original: bool) -> Iterator[Leader]:
            from squeeze.training.peers import Leader  # torch.distributed

            with _called(meeting, pass_.name) as group:
                group.say(self._job(step, before, original, asks_original))
                for model in (before, original) if asks_original else (before,):
                    group.say_folder(model.model_folder)
                yield Leader(group, pass_.name)
                group.say({"kind": "end"})

        return training

    def _job(self, step: Step, before: StoredModel, original: StoredModel, asks_original: bool) -> dict[str, Any]:
        """What the others must know of a training beside its models, as JSON values."""
        kind = type(step.pass_)
        return {
            "pass": f"{kind.__module__}:{kind.__qualname__}",
            "options": step.pass_.options(),
            "form": before.model.form,
            "original": original.model.form if asks_original else None,
            "root": str(self.plan.root),
            "seed": self.plan.seed,
            "threads": self.plan.threads,
        }


@contextmanager
def team_of(plan: Plan) -> Iterator[Team]:
    """The processes that this one was started with, once all have come.

    Raises:
        PlanError: a batch has fewer examples than there are processes.
        SqueezeError: some processes have not come.
    """
    launch = launched()
    if launch is None:
        yield Team(plan)
        return
    from squeeze.passes.distill.training import TrainingPass  # these two, only where a launcher is
    from squeeze.training.meeting import meeting_of_process_0

    every = [(step, step.pass_) for _, step in plan.every_step()]
    trainings = [(step, pass_.batch_size) for step, pass_ in every if isinstance(pass_, TrainingPass)]
    if faults := [_too_small(step, size, launch) for step, size in trainings if size < launch.processes]:
        raise PlanError(plan.located(faults), plan.file)
    meeting = meeting_of_process_0(launch)  # even if nothing trains: the others wait to hear that all is over
    idle = f"{launch.processes} processes were started, and no pass of the plan trains: process 0 works alone"
    with as_if_alone():
        yield Team(plan, meeting, [] if trainings else [idle])


def _too_small(step: Step, size: int, launch: Launch) -> Fault:
    what = f"batch_size {size} is the whole batch, and {launch.processes} processes share it"
    return Fault((*step.place, "batch_size"), f"{step.pass_.name}: {what}; {launch.processes} or more would do")


@contextmanager
def _called(meeting: Meeting, name: str) -> Iterator[Group]:
    """The connections of one training; a process that is lost says why, where it still could."""
    from squeeze.training.group import LostProcess

    try:
        group = meeting.call()
        try:
            yield group
        finally:
            group.close()
    except LostProcess as lost:
        reason = meeting.failure() or "a process that helps was killed, or does not answer"
        raise SqueezeError(f"{name}: {reason}") from lost
