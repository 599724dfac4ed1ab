"""A process that a launcher started beside process 0: it helps in trainings, and does and says nothing else.

It stays until process 0 ends, whatever that compresses meanwhile, and never returns to its script: what follows a
run there, and OUT and the store, are process 0's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeeze.errors import SqueezeError, Terminated, first_line
from squeeze.training.launch import Launch, as_if_alone, launched
from squeeze.work import temporary_folder

if TYPE_CHECKING:
    from squeeze.models.base import Model
    from squeeze.training.group import Group
    from squeeze.training.meeting import Meeting

INTERRUPTED, TERMINATED = 130, 143  # what a shell reports of SIGINT and SIGTERM


def help_unless_leading() -> None:
    """Return at once in process 0, and where no launcher is; any other process ends in here.

    Raises:
        SystemExit: process 0 has ended, or this process was asked to.
        SqueezeError: process 0 is not where the launcher says.
    """
    launch = launched()
    if launch is None or launch.rank == 0:
        return
    try:
        with as_if_alone():
            raise SystemExit(_help(launch))
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except Terminated:
        raise SystemExit(TERMINATED) from None


def _help(launch: Launch) -> int:
    """Take part in all trainings to come; gives the exit code."""
    from squeeze.training.group import LostProcess
    from squeeze.training.meeting import Meeting

    meeting = Meeting(launch)
    while (group := meeting.next_call()) is not None:
        try:
            with temporary_folder("helper") as folder:
                take_part(group, folder)
        except LostProcess:  # process 0 left the training, or says itself whom it lost
            continue
        except SqueezeError as error:
            _fail(meeting, group, str(error))
            return error.exit_code
        except Exception as error:
            _fail(meeting, group, f"{type(error).__name__}: {first_line(error)}")
            raise
        finally:
            group.close()
    meeting.leave()
    return 0


def _fail(meeting: Meeting, group: Group, reason: str) -> None:
    """Tell why, let process 0 notice, and live until it has said so: a launcher ends all when the first ends."""
    meeting.fail(reason)
    group.close()
    meeting.wait_for_the_end()


def take_part(group: Group, folder: Path) -> None:
    """One training, with models that process 0 sends into an empty folder."""
    from squeeze.passes.base import Context
    from squeeze.references import resolve
    from squeeze.training.peers import Follower

    job = group.hear()
    (model, *original) = [_received(group, folder / name, job, name) for name in ("form", "original") if job[name]]
    pass_ = resolve(job["pass"], job["root"]).model_validate(job["options"])
    context = Context(seed=job["seed"], threads=job["threads"], root=Path(job["root"]))
    context.original = (lambda: original[0]) if original else None
    pass_.help(model, context, Follower(group))


def _received(group: Group, folder: Path, job: dict[str, Any], form: str) -> Model:
    from squeeze.run.stored import load_model

    folder.mkdir()
    return load_model(group.hear_folder(folder), job[form], job["root"])
