"""Carrying a plan out, and telling what came of it."""

from squeeze.run.result import Failure, Run, RunFailed
from squeeze.run.straight import run

__all__ = ["Failure", "Run", "RunFailed", "run"]
