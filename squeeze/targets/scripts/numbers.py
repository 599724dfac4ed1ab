"""What an encoder's script shows: its numbers."""

from __future__ import annotations

import argparse
from typing import Any

from squeeze.targets.scripts.shared import Json


class Numbers:
    """The outputs of each example, as they are."""

    @staticmethod
    def answer(outputs: Any, options: argparse.Namespace, manifest: Json) -> list[Any]:
        """``[n, width]`` as lists."""
        rows: list[Any] = outputs.tolist()
        return rows

    @staticmethod
    def lines(example: Any) -> list[str]:
        """One example's answer as a person reads it."""
        return [" ".join(f"{value:.6g}" for value in example)]
