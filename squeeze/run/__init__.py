"""Carrying a plan out, and telling what came of it."""

from squeeze.run.straight import Run, run

__all__ = ["Run", "run"]
