"""The arguments of the process that exports."""

from __future__ import annotations

from dataclasses import dataclass

JOB = "job.json"


@dataclass(frozen=True)
class Job:
    """What to export.

    Args:
        model: The folder of a language model.
        context: Tokens that its cache has room for.
        chunk: The most tokens of one call.
    """

    model: str
    context: int
    chunk: int
