"""Carrying a plan out, and telling what came of it."""

from squeeze.run.straight import Failure, Run, RunFailed, run

__all__ = ["Failure", "Run", "RunFailed", "run"]
