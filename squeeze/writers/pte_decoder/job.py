"""The arguments of the process that exports."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

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

    def to_json(self) -> str:
        return json.dumps(asdict(self))
